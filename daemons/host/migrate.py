"""Bringing a database to this version's schema: a copy first, then Alembic, or a clear refusal."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from daemons.common.log import Log
from daemons.host.store import connect
from hakuriver.errors import ConfigError, StorageFull

SCRIPTS = "daemons.host:migrations"
log = Log("migrate")


def migrate(path: Path, scripts: str = SCRIPTS) -> Path | None:
    """Make or upgrade the database; returns the copy that was made before an upgrade.

    Raises ConfigError for a database that a newer version wrote or that isn't ours.
    """
    config = Config()
    config.set_main_option("script_location", scripts)
    engine = connect(path)
    try:
        with engine.connect() as connection:
            if not _behind(connection, config, path):
                return None
            copy = _backup(path) if inspect(connection).get_table_names() else None
            config.attributes["connection"] = connection
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            command.upgrade(config, "head")
            connection.exec_driver_sql("COMMIT")
            log.info("migrated", database=str(path), backup=str(copy or ""))
            return copy
    except DBAPIError as error:
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise StorageFull(f"no room for the database {path}") from error
        raise ConfigError(f"database {path} can't be used: {error.orig}") from error
    finally:
        engine.dispose()


def check(path: Path, scripts: str = SCRIPTS) -> None:
    """Raises ConfigError for a database that this version can't bring to its schema; changes nothing."""
    config = Config()
    config.set_main_option("script_location", scripts)
    engine = connect(path)
    try:
        with engine.connect() as connection:
            _behind(connection, config, path)
            if not inspect(connection).get_table_names():
                raise ConfigError(f"{path} is not a HakuRiver database")
    except DBAPIError as error:
        raise ConfigError(f"database {path} can't be used: {error.orig}") from error
    finally:
        engine.dispose()


def _behind(connection: Connection, config: Config, path: Path) -> bool:
    script = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    head = script.get_current_head()
    if current is None and inspect(connection).get_table_names():
        raise ConfigError(f"{path} is not a HakuRiver database", hint="choose another --state-dir")
    if current is not None:
        try:
            script.get_revision(current)
        except CommandError:
            raise ConfigError(
                f"database {path} was written by a newer HakuRiver (schema {current}, this one knows {head})",
                hint="start the newer version, or restore the copy made before the upgrade",
                code="newer_schema",
            ) from None
    return current != head


def _backup(path: Path) -> Path:
    """A whole copy beside the database; it has its name only once it is complete and on disk."""
    copy = path.with_name(f"{path.name}.before-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    part = copy.with_name(f"{copy.name}.part")
    try:
        part.unlink(missing_ok=True)
        source, target = sqlite3.connect(path), sqlite3.connect(part)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(copy)
    except (OSError, sqlite3.Error) as error:
        part.unlink(missing_ok=True)
        raise StorageFull(f"no copy of {path} could be made before its upgrade: {error}") from error
    return copy
