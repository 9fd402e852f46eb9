"""Copies of the host's database: taken while it runs or not, and put back when it doesn't.

What a backup doesn't know did happen all the same: a restored database is a new epoch, in which a node is
told nothing before it has introduced itself, and no id is given twice.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, select

from daemons.common.log import Log
from daemons.host import recovery
from daemons.host.intents import first_version
from daemons.host.migrate import check
from daemons.host.recovery import Waiting
from daemons.host.schema import meta
from daemons.host.store import Tx
from hakuriver.errors import ConfigError, Conflict, HakuRiverError, StorageFull
from hakuriver.lifecycle import NodeState

WAITS = "the host was restored from a backup; waiting for its runner"
UNKNOWN_GAP = 100_000
"""Ids left out when nobody can tell how many were given since the backup."""
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_PART = ".part"
log = Log("backup")


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore made: the new epoch, and where the database before lies now (None: there was none)."""

    epoch: int
    replaced: Path | None


@dataclass(frozen=True, slots=True)
class _Known:
    """What a database says of itself; ``last`` is the newest id that it gave, ``nodes`` those not removed."""

    cluster: str
    epoch: int
    last: int
    nodes: frozenset[str]


def backup(database: Path, file: Path) -> None:
    """A whole copy of the database in one new file, on disk when this returns.

    Raises Conflict when the file exists, ConfigError when either can't be used, StorageFull.
    """
    if file.exists() or file.is_symlink():
        raise _exists(file)
    if not database.exists():
        raise ConfigError(f"there is no database {database}", hint="--state-dir names another cluster")
    with _part(file) as part:
        with _errors(file), closing(_open(database)) as source, closing(_open(part)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
            _check_whole(target, database)
        _sync(part)
        _name(part, file)
        _sync(file.parent)


def restore(database: Path, file: Path) -> Restored:
    """Put a backup in the database's place; the one before is kept beside it. To be called under the host's
    lock. Raises ConfigError for what is no backup, is damaged, or was written by a newer version."""
    if not file.is_file():
        raise ConfigError(f"there is no file {file}")
    with _part(database) as part:
        with _errors(file):
            shutil.copyfile(file, part)
            with closing(_open(part)) as copy:
                _check_whole(copy, file)
        try:
            check(part)
        except HakuRiverError as error:
            raise ConfigError(error.message.replace(str(part), str(file)), hint=error.hint) from error
        with _errors(database):
            before = _now(database)
            with closing(_open(part)) as copy:
                epoch = _begin_epoch(copy, _known(copy, file), before)
                with copy:
                    copy.execute("INSERT OR REPLACE INTO meta VALUES ('restored', ?)", (str(file),))
                copy.execute("PRAGMA journal_mode=DELETE")
            _sync(part)
            replaced = _keep(database)
            part.rename(database)
            _sync(database.parent)
    return Restored(epoch, replaced)


def announce(tx: Tx) -> None:
    """The first start after a restore says so in the host's log."""
    file = tx.execute(select(meta.c.value).where(meta.c.key == "restored")).scalar()
    if file is not None:
        tx.execute(delete(meta).where(meta.c.key == "restored"))
        log.warning("audit", act="restore", file=file)


def _begin_epoch(copy: sqlite3.Connection, found: _Known, before: _Known | None) -> int:
    """Make the copy the beginning of an epoch that no node has seen, even if the last one can't be read."""
    ours = before if before is not None and before.cluster == found.cluster else None
    epoch = max(found.epoch + 1, ours.epoch + 1 if ours else 0, int(time.time()))
    last = max(found.last, ours.last) if ours else found.last + UNKNOWN_GAP
    base = first_version(epoch)
    waiting = Waiting(found.last, tuple(sorted({*found.nodes, *(ours.nodes if ours else ())}))).text()
    with copy:
        copy.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (str(epoch),))
        copy.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (recovery.KEY, waiting))
        copy.execute(
            "UPDATE attempt SET intent_version = :base,"
            " intent_sent = iif(intent_sent < intent_version, 0, :base),"
            " intent_done = iif(intent_done < intent_version, 0, :base)",
            {"base": base},
        )
        copy.execute("UPDATE node SET state = ?, reason = ?", (str(NodeState.OFFLINE), WAITS))
        if copy.execute("SELECT 1 FROM pragma_table_info('attempt') WHERE name = 'fence'").fetchone():
            copy.execute("UPDATE attempt SET fence = 0")  # what a node said before is not its last word
        copy.execute("DELETE FROM sqlite_sequence WHERE name = 'task'")
        copy.execute("INSERT INTO sqlite_sequence VALUES ('task', ?)", (last,))
    return epoch


def _known(connection: sqlite3.Connection, file: Path) -> _Known:
    found = dict(connection.execute("SELECT key, value FROM meta WHERE key IN ('cluster', 'epoch')"))
    if set(found) != {"cluster", "epoch"}:
        raise ConfigError(f"{file} is not a backup of a host")
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'task'").fetchone()
    nodes = connection.execute("SELECT name FROM node WHERE state <> ?", (str(NodeState.REMOVED),))
    names = frozenset(row[0] for row in nodes)
    return _Known(found["cluster"], int(found["epoch"]), int(last[0]) if last else 0, names)


def _now(database: Path) -> _Known | None:
    """What is known of the database that goes, None when it is missing or can't be read any more."""
    if not database.exists():
        return None
    try:
        with closing(_open(database)) as connection:
            known = _known(connection, database)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return known
    except (sqlite3.Error, HakuRiverError, ValueError):
        return None


def _keep(database: Path) -> Path | None:
    """Another name for the database that goes, and for what belongs to it; at no moment is there none."""
    if not database.exists():
        return None
    kept = database.with_name(f"{database.name}.replaced-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    for suffix in ("-wal", "-shm", ""):
        each = database.with_name(f"{database.name}{suffix}")
        if each.exists():
            os.link(each, kept.with_name(f"{kept.name}{suffix}"))
    for suffix in ("-wal", "-shm"):
        database.with_name(f"{database.name}{suffix}").unlink(missing_ok=True)
    return kept


def _check_whole(connection: sqlite3.Connection, file: Path) -> None:
    (answer,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if answer != "ok":
        raise ConfigError(f"{file} is damaged: {answer}")


def _open(path: Path) -> sqlite3.Connection:
    """An existing file; raises sqlite3.Error."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=10)


@contextmanager
def _part(file: Path) -> Iterator[Path]:
    """A new empty file beside ``file``, private, gone afterwards unless it got another name. Locked for as
    long as it is worked on: what a run that was cut short left behind is not, and goes."""
    part = file.with_name(f"{file.name}.{os.getpid()}{_PART}")
    try:
        for left in file.parent.glob(f"{glob.escape(file.name)}.*{_PART}"):
            if _is_abandoned(left):
                _remove(left)
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{part} can't be made: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield part
    finally:
        os.close(descriptor)
        _remove(part)


def _is_abandoned(part: Path) -> bool:
    """Whether a file of our making is nobody's any more."""
    if not re.fullmatch(r".*\.[0-9]+" + re.escape(_PART), part.name):
        return False
    try:
        descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _remove(part: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        part.with_name(f"{part.name}{suffix}").unlink(missing_ok=True)


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise StorageFull(f"no room for a copy ({file})") from error
        raise ConfigError(f"{file} can't be used: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no room for a copy ({file})") from error
        raise ConfigError(f"{file} can't be used: {error.strerror}") from error


def _name(part: Path, file: Path) -> None:
    """Give a finished file its name, which nobody else may have."""
    try:
        os.link(part, file)
    except FileExistsError:
        raise _exists(file) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise ConfigError(f"{file} can't be made: {error.strerror}") from error
        if file.exists():
            raise _exists(file) from None
        part.rename(file)


def _exists(file: Path) -> Conflict:
    return Conflict(f"{file} exists already", hint="a backup never overwrites; choose another name")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
