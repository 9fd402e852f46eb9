"""The truth: one SQLite database, one writer thread with group commit, a few readers.

What is written together is committed together; nobody is answered before it is safe on disk.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Engine, Executable, create_engine, event, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from daemons.common.log import Log
from daemons.host.rows import NodeRow, TaskRow, load_nodes, load_tasks
from daemons.host.schema import meta
from hakuriver.errors import Internal, StorageFull

GROUP_SIZE = 256
GROUP_SECONDS = 0.002
_READERS = 3
_BUSY_MS = 5000
_BROKEN = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CORRUPT,
    }
)
"""Primary result codes that say something about the disk, not about one operation."""

T = TypeVar("T")
log = Log("store")


@dataclass(frozen=True, slots=True)
class Identity:
    """Which cluster this database is. The epoch grows when a database was restored from a backup."""

    cluster: str
    epoch: int

    def cursor(self, sequence: int) -> str:
        """The watch cursor that stands after a change."""
        return f"{self.epoch}-{sequence}"


@dataclass(frozen=True, slots=True)
class TaskChange:
    """A task as it is after a committed change; ``line`` is its line of the watch stream."""

    sequence: int
    row: TaskRow
    line: bytes


@dataclass(frozen=True, slots=True)
class NodeChange:
    """A node as it is after a committed change."""

    sequence: int
    row: NodeRow


@dataclass(frozen=True, slots=True)
class NodeGone:
    """A node that was removed; ``line`` is its line of the watch stream."""

    sequence: int
    name: str
    line: bytes


@dataclass(frozen=True, slots=True)
class TaskGone:
    """An ended task that is no longer kept; ``line`` is its line of the watch stream."""

    sequence: int
    task: int
    line: bytes


Change = TaskChange | NodeChange | NodeGone | TaskGone


class Tx:
    """One operation of a group: statements, and the changes that clients will see once it is committed."""

    def __init__(self, connection: Connection, identity: Identity, sequence: int) -> None:
        self.connection = connection
        self.sequence = sequence
        self.changes: list[Change] = []
        self.identity = identity

    def execute(self, statement: Executable, rows: Any = None) -> CursorResult[Any]:
        """Run a Core statement, once or for each of ``rows``."""
        return self.connection.execute(statement, rows)

    def publish_tasks(self, ids: Sequence[int]) -> list[TaskRow]:
        """Announce tasks as they are now: to be called once an operation has finished with them."""
        rows = load_tasks(self.connection, ids)
        for row in rows:
            self.sequence += 1
            cursor = self.identity.cursor(self.sequence)
            line = f'{{"type":"task","cursor":"{cursor}","task":{row.view}}}\n'.encode()
            self.changes.append(TaskChange(self.sequence, row, line))
        return rows

    def publish_gone(self, ids: Sequence[int]) -> None:
        """Announce that tasks, ended before, were deleted."""
        for number in ids:
            self.sequence += 1
            cursor = self.identity.cursor(self.sequence)
            line = f'{{"type":"deleted","cursor":"{cursor}","id":{number}}}\n'.encode()
            self.changes.append(TaskGone(self.sequence, number, line))

    def publish_node(self, name: str) -> NodeRow:
        """Announce a node as it is now."""
        (row,) = load_nodes(self.connection, name)
        self.sequence += 1
        self.changes.append(NodeChange(self.sequence, row))
        return row

    def publish_node_gone(self, name: str) -> None:
        """Announce that a node was deleted."""
        self.sequence += 1
        line = {"type": "deleted", "cursor": self.identity.cursor(self.sequence), "name": name}
        self.changes.append(NodeGone(self.sequence, name, json.dumps(line).encode() + b"\n"))


@dataclass(slots=True)
class _Job:
    operation: Callable[[Tx], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Store:
    """Opened by ``open``. ``committed`` is told of changes on the event loop, in commit order, before their
    writers go on."""

    def __init__(self, path: Path, committed: Callable[[Sequence[Change]], None]) -> None:
        self._path = path
        self._committed = committed
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._engine = connect(path)
        self._local = threading.local()
        self._opened: list[Connection] = []
        self._readers = ThreadPoolExecutor(_READERS, "store-reader")
        self._writer = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self.identity, self._sequence = _identity(self._engine)
        self.published = self._sequence
        """Number of the last change that ``committed`` was told."""

    def open(self) -> None:
        """Start the writer; to be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._writer.start()

    async def write(self, operation: Callable[[Tx], T]) -> T:
        """Run an operation in the next group; returns after COMMIT.

        Raises what the operation raised (then nothing of it is stored), or StorageFull.
        """
        assert self._loop is not None, "open comes first"
        if self._ended is None or self._ended.done():
            raise _ended()
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(operation, future))
        return await future

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query in a thread of its own, on one consistent state of the database."""
        assert self._loop is not None, "open comes first"
        return await self._loop.run_in_executor(self._readers, self._query, query)

    async def run(self) -> None:
        """Loop: ends only with the writer."""
        assert self._ended is not None, "open comes first"
        await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Write what is still waiting, then close everything."""
        if self._ended is not None:
            self._jobs.put(None)
            await asyncio.wait([self._ended])
            self._writer.join()
        self._readers.shutdown(wait=True)
        for connection in self._opened:
            connection.close()
        self._engine.dispose()

    def _query(self, query: Callable[[Connection], T]) -> T:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._engine.connect()
            connection.exec_driver_sql("PRAGMA query_only=ON")
            self._opened.append(connection)
        connection.exec_driver_sql("BEGIN")
        try:
            return query(connection)
        finally:
            connection.exec_driver_sql("ROLLBACK")

    # The writer thread.

    def _run(self) -> None:
        assert self._loop is not None
        assert self._ended is not None
        jobs: list[_Job] = []
        try:
            with self._engine.connect() as connection:
                running = True
                while running and (first := self._jobs.get()) is not None:
                    jobs = [first]
                    changes, running = self._group(connection, jobs)
                    self._loop.call_soon_threadsafe(self._deliver, changes, jobs)
        finally:
            self._loop.call_soon_threadsafe(self._finish, jobs)

    def _finish(self, jobs: list[_Job]) -> None:
        """The writer has ended; after a bug somebody may still be waiting for it."""
        assert self._ended is not None
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job is not None:
                jobs.append(job)
        for job in jobs:
            if not job.future.done():
                job.future.set_exception(_ended())
        self._ended.set_result(None)

    def _group(self, connection: Connection, jobs: list[_Job]) -> tuple[list[Change], bool]:
        """Run and commit the first job and those that are waiting too; appends them to ``jobs``.

        Returns the committed changes, and False when the store is being closed.
        """
        before = self._sequence
        changes: list[Change] = []
        running = True
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            deadline = time.monotonic() + GROUP_SECONDS
            self._step(connection, jobs[0], changes)
            while len(jobs) < GROUP_SIZE and time.monotonic() < deadline:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    running = False
                    break
                jobs.append(job)
                self._step(connection, job, changes)
            if self._sequence != before:
                connection.execute(
                    update(meta).where(meta.c.key == "sequence").values(value=str(self._sequence))
                )
            connection.exec_driver_sql("COMMIT")
        except DBAPIError as error:
            self._sequence = before
            self._give_up(connection, jobs, error)
            return [], running
        return changes, running

    def _step(self, connection: Connection, job: _Job, changes: list[Change]) -> None:
        """One operation in its own savepoint. What says that the disk is broken is raised to the group."""
        tx = Tx(connection, self.identity, self._sequence)
        connection.exec_driver_sql("SAVEPOINT operation")
        try:
            job.result = job.operation(tx)
        except Exception as error:  # whatever it is, it is the caller's
            if isinstance(error, DBAPIError) and (_is_broken(error) or not _in_transaction(connection)):
                raise
            job.error = error
            connection.exec_driver_sql("ROLLBACK TO operation")
        else:
            self._sequence = tx.sequence
            changes.extend(tx.changes)
        connection.exec_driver_sql("RELEASE operation")

    def _give_up(self, connection: Connection, jobs: list[_Job], error: DBAPIError) -> None:
        log.error("storage_failed", error=str(error.orig), operations=len(jobs))
        for job in jobs:
            job.result = None
            job.error = StorageFull(
                f"the host's database can't be written: {error.orig}",
                hint=f"nothing was stored; make room on the disk of {self._path.parent}",
            )
        if _in_transaction(connection):
            try:
                connection.exec_driver_sql("ROLLBACK")
            except DBAPIError as second:
                log.warning("rollback_failed", error=str(second.orig))

    def _deliver(self, changes: list[Change], jobs: list[_Job]) -> None:
        if changes:
            self.published = changes[-1].sequence
            self._committed(changes)
        for job in jobs:
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)


def connect(path: Path) -> Engine:
    """An engine whose transactions are ours alone (``BEGIN`` is only sent where this module says so)."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"check_same_thread": False, "timeout": _BUSY_MS / 1000},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _: object) -> None:
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={_BUSY_MS}",
            "journal_size_limit=67108864",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _identity(engine: Engine) -> tuple[Identity, int]:
    """Who this database is, decided once, and the number of its last change."""
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        first = {"cluster": uuid.uuid4().hex, "epoch": "1", "sequence": "0"}
        connection.execute(
            insert(meta).on_conflict_do_nothing(),
            [{"key": key, "value": value} for key, value in first.items()],
        )
        found = {row.key: row.value for row in connection.execute(select(meta))}
        connection.exec_driver_sql("COMMIT")
    return Identity(found["cluster"], int(found["epoch"])), int(found["sequence"])


def _ended() -> Internal:
    return Internal("the host's store has ended", hint="the host's log has the details")


def _is_broken(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", 0)
    return code & 0xFF in _BROKEN


def _in_transaction(connection: Connection) -> bool:
    found = connection.connection.dbapi_connection
    return isinstance(found, sqlite3.Connection) and found.in_transaction
