"""Databases of other versions: upgraded after a copy was made, or refused in one clear line."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import daemons.host.migrations as ours
from daemons.host.migrate import migrate
from daemons.host.schema import task
from daemons.host.store import connect
from hakuriver.errors import ConfigError

NEXT = """
import sqlalchemy as sa
from alembic import op
revision = "0002"
down_revision = "0001"

def upgrade():
    op.add_column("task", sa.Column("extra", sa.String()))
"""


def test_migrations_make_exactly_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    assert migrate(path) is None, "there is nothing to copy at first"
    assert migrate(path) is None
    with connect(path).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), task.metadata) == []


def later_scripts(tmp_path: Path) -> str:
    folder = tmp_path / "migrations"
    shutil.copytree(Path(ours.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "v0002_later.py").write_text(NEXT)
    return str(folder)


def columns(path: Path) -> set[str]:
    database = sqlite3.connect(path)
    try:
        return {row[1] for row in database.execute("PRAGMA table_info(task)")}
    finally:
        database.close()


def test_an_upgrade_keeps_a_whole_copy(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    migrate(path)
    copy = migrate(path, later_scripts(tmp_path))
    assert copy is not None
    assert "extra" in columns(path)
    assert "extra" not in columns(copy)
    assert list(tmp_path.glob("*.part")) == []
    assert migrate(copy) is None, "the copy is a database of the old version"


def test_a_failed_upgrade_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    migrate(path)
    scripts = later_scripts(tmp_path)
    later = Path(scripts) / "versions" / "v0002_later.py"
    later.write_text(f'{NEXT}    op.execute("SELECT * FROM nowhere")\n')
    with pytest.raises(ConfigError, match="nowhere"):
        migrate(path, scripts)
    assert "extra" not in columns(path)
    assert migrate(path) is None


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    migrate(path, later_scripts(tmp_path))
    with pytest.raises(ConfigError, match=r"newer HakuRiver \(schema 0002, this one knows 0001\)") as raised:
        migrate(path)
    assert raised.value.instance_code == "newer_schema"


def test_what_is_no_database_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE other (a)")
    database.close()
    with pytest.raises(ConfigError, match="not a HakuRiver database"):
        migrate(path)
    (tmp_path / "b.db").write_bytes(b"this is not SQLite at all" * 100)
    with pytest.raises(ConfigError, match="can't be used"):
        migrate(tmp_path / "b.db")
