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
from hakuriver import statedir
from hakuriver.errors import ConfigError
from tests.api.conftest import running_host

SCHEMAS = Path(__file__).parent.parent / "fixtures" / "schemas"
NEXT = """
import sqlalchemy as sa
from alembic import op
revision = "9999"
down_revision = "0005"

def upgrade():
    op.add_column("task", sa.Column("extra", sa.String()))
"""


def test_migrations_make_exactly_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    assert migrate(path) is None, "there is nothing to copy at first"
    assert migrate(path) is None
    with connect(path).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), task.metadata) == []


@pytest.mark.parametrize("dump", sorted(SCHEMAS.glob("*.sql")), ids=lambda path: path.stem)
async def test_databases_of_every_version_open(dump: Path, tmp_path: Path) -> None:
    """With all that was in them: what runs still runs, what waits still waits."""
    layout = statedir.layout(tmp_path)
    statedir.make_private(layout.host)
    database = sqlite3.connect(layout.database)
    database.executescript(dump.read_text("utf-8"))
    database.close()
    async with running_host(tmp_path) as api:
        assert [(each["id"], each["state"]) for each in (await api.tasks())["items"]][1:] == [
            (2, "running"),
            (1, "completed"),
        ]
        assert (await api.tasks(tag="night", state="completed"))["items"][0]["exit_code"] == 0
        assert (await api.submit("true"))["id"] == 4
    with connect(layout.database).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), task.metadata) == []


def later_scripts(tmp_path: Path) -> str:
    folder = tmp_path / "migrations"
    shutil.copytree(Path(ours.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "v9999_later.py").write_text(NEXT)
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
    later = Path(scripts) / "versions" / "v9999_later.py"
    later.write_text(f'{NEXT}    op.execute("SELECT * FROM nowhere")\n')
    with pytest.raises(ConfigError, match="nowhere"):
        migrate(path, scripts)
    assert "extra" not in columns(path)
    assert migrate(path) is None


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    migrate(path, later_scripts(tmp_path))
    with pytest.raises(ConfigError, match=r"newer HakuRiver \(schema 9999, this one knows \d{4}\)") as raised:
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
