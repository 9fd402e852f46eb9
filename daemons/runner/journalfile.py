"""The file under the journal: one SQLite database, one thread, transactions that leave nothing half done."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from daemons.runner.migrations import MIGRATIONS
from hakuriver.errors import ConfigError, StorageFull

P = ParamSpec("P")
T = TypeVar("T")


class JournalFile:
    """Made by ``open``; what reads and writes is run by ``call``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(1, "journal")
        self._db: sqlite3.Connection
        self.runner = ""  # this journal's identity, 32 hex digits
        self.version = 0

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one of the methods below in the journal's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Finish what was begun and close the file."""

        def end() -> None:
            if hasattr(self, "_db"):
                self._db.close()

        self._pool.submit(end).result(timeout=5)
        self._pool.shutdown(wait=True)

    def open(self) -> None:
        """Open or make the file; raises ConfigError when it can't be used or is of a later version."""
        try:
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._migrate()
            with self._write():
                fresh = secrets.token_hex(16)
                self._db.execute("INSERT OR IGNORE INTO meta VALUES ('runner', ?)", (fresh,))
            self.runner = self._meta("runner")
        except (sqlite3.Error, StorageFull) as error:
            raise ConfigError(f"the journal {self._path} can't be used: {error}") from error

    def _migrate(self) -> None:
        found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if found > len(MIGRATIONS):
            raise ConfigError(
                f"the journal {self._path} is of a later version ({found}) than this runner knows",
                hint="start the newer version of HakuRiver that wrote it",
                code="newer_schema",
            )
        for number, script in enumerate(MIGRATIONS[found:], found + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")

    def _meta(self, key: str) -> str:
        return str(self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction that also moves the version on."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'version'")
            yield self._db
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise StorageFull(
                    f"the runner can't write its journal: {error}", hint="free space on the node's disk"
                ) from error
            raise
        self.version = int(self._meta("version"))
