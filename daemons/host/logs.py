"""Logs: from the runner that has them, or from the shared copy while it is away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, func, select

from daemons.common.threads import until
from daemons.host.dispatcher import Dispatcher
from daemons.host.schema import attempt, node, task
from daemons.host.store import Store
from daemons.host.watch import Hub
from hakuriver.errors import PRUNED, HakuRiverError, NotFound, Unreachable
from hakuriver.fields import Stream
from hakuriver.lifecycle import ENDED, NodeState, State
from hakuriver.paths import HEADER_ENDED, HEADER_OFFSET, HEADER_SIZE, runner_path

READ_SECONDS = 5.0
POLL_SECONDS = 1.0
_TAIL_BLOCK = 64 * 1024
_SUBFOLDER: dict[Stream, tuple[str, str]] = {
    "stdout": ("task_outputs", "out"),
    "stderr": ("task_errors", "err"),
}


@dataclass(frozen=True, slots=True)
class Ranged:
    """One read of a log: where it starts, how much of it, from the end, how long to wait for more."""

    offset: int
    limit: int
    tail: int | None
    wait: float
    attempt: int | None


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a log; ``ended`` when the log can't grow any more, ``note`` says that it is only a copy."""

    data: bytes
    offset: int
    size: int
    ended: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Source:
    number: int
    attempt: int
    node: str | None
    state: State
    current: bool
    ran: bool
    removed: bool  # its node, for good

    @property
    def final(self) -> bool:
        """Nothing more will be written under this attempt's number."""
        return self.state in ENDED or not self.current


class Logs:
    """Reads logs for people; ``shared`` is the folder that all nodes copy theirs to."""

    def __init__(self, store: Store, dispatcher: Dispatcher, hub: Hub, shared: Path) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._hub = hub
        self._shared = shared
        self._pool = ThreadPoolExecutor(4, "shared-dir")

    def close(self) -> None:
        """Let the threads go; one that hangs in a dead mount is left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def read(self, number: int, stream: Stream, asked: Ranged) -> Piece:
        """One ranged read; waits up to ``asked.wait`` for something to show. Raises NotFound, Unreachable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + asked.wait
        with self._hub.listen(number) as changed:
            while True:
                changed.clear()
                source = await self._store.read(lambda connection: _find(connection, number, asked.attempt))
                piece = await self._once(source, stream, asked, max(0.0, deadline - loop.time()))
                left = deadline - loop.time()
                if piece.data or piece.ended or left <= 0:
                    return piece
                await until(changed, min(POLL_SECONDS, left))

    async def remove(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Remove the shared copies of (task, attempt)s that are ours; raises Unreachable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(READ_SECONDS):
                await loop.run_in_executor(self._pool, remove_copies, self._shared, attempts)
        except TimeoutError:
            raise Unreachable(f"{self._shared} doesn't answer") from None
        except OSError as error:
            raise Unreachable(f"{self._shared} can't be used: {error.strerror}") from error

    async def _once(self, source: _Source, stream: Stream, asked: Ranged, wait: float) -> Piece:
        if source.node is None or (source.final and not source.ran):
            return Piece(b"", 0, 0, ended=source.final)
        if source.removed:
            return await self._from_copy(source, stream, asked, NotFound(f"node {source.node} was removed"))
        try:
            return await self._from_runner(source, source.node, stream, asked, wait)
        except NotFound as error:
            if not source.final:
                return Piece(b"", 0, 0, ended=False)
            missing: HakuRiverError = _gone(source, error)
        except Unreachable as error:
            missing = error
        return await self._from_copy(source, stream, asked, missing)

    async def _from_runner(
        self, source: _Source, node: str, stream: Stream, asked: Ranged, wait: float
    ) -> Piece:
        path = runner_path("logs", task=source.number, attempt=source.attempt, stream=stream)
        query = {"offset": asked.offset, "limit": asked.limit, "tail": asked.tail, "wait": round(wait, 3)}
        async with self._dispatcher.open(node, "GET", path, query=query, timeout=wait + 10) as response:
            data = await response.aread()
            headers = response.headers
        try:
            offset, size = int(headers[HEADER_OFFSET]), int(headers[HEADER_SIZE])
        except (KeyError, ValueError):
            raise Unreachable(
                f"node {node} answers what can't be understood", code="node_unreachable"
            ) from None
        return Piece(data, offset, size, headers.get(HEADER_ENDED) == "1")

    async def _from_copy(
        self, source: _Source, stream: Stream, asked: Ranged, missing: HakuRiverError
    ) -> Piece:
        """The copy may be behind the truth; it is final only where no more can come."""
        folder, name = copy_of(source.number, source.attempt, stream)
        path = self._shared / folder / name
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(READ_SECONDS):
                found = await loop.run_in_executor(
                    self._pool, read_range, path, asked.offset, asked.limit, asked.tail
                )
        except TimeoutError:
            raise Unreachable(missing.message, hint=f"and {self._shared} doesn't answer either") from missing
        except OSError:
            hint = f"and there is no copy in {self._shared}"
            raise type(missing)(missing.message, hint=hint, code=missing.instance_code) from None
        over = isinstance(missing, NotFound)
        note = "this is its copy in the shared folder" if over else "this is the shared copy, which may lag"
        return Piece(*found, ended=over, note=f"{missing.message}; {note}")


def _gone(source: _Source, error: NotFound) -> NotFound:
    """Why a node has no log of an attempt that ran there."""
    if error.instance_code == PRUNED:
        return NotFound(f"the logs of task {source.number} were pruned from {source.node} {error.message}")
    return NotFound(f"the log of task {source.number} is gone from {source.node}")


def copy_of(number: int, attempt_number: int, stream: Stream) -> tuple[str, str]:
    """Where a log's copy lies in the shared folder: its folder there and its name."""
    folder, suffix = _SUBFOLDER[stream]
    middle = "" if attempt_number == 1 else f".{attempt_number}"
    return folder, f"{number}{middle}.{suffix}"


def remove_copies(shared: Path, attempts: Sequence[tuple[int, int]]) -> None:
    """Remove the copies of (task, attempt)s' logs, those that are files of ours; what is in the way stays.
    Raises OSError when the shared folder can't be used."""
    for stream in _SUBFOLDER:
        try:
            folder = os.open(
                shared / _SUBFOLDER[stream][0], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            )
        except FileNotFoundError:
            continue
        try:
            for number, attempt_number in attempts:
                _remove(folder, copy_of(number, attempt_number, stream)[1])
        finally:
            os.close(folder)


def _remove(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid():
            os.unlink(name, dir_fd=folder)


def _find(connection: Connection, number: int, attempt_number: int | None) -> _Source:
    """The attempt whose log is meant; raises NotFound."""
    wanted = task.c.attempt if attempt_number is None else attempt_number
    row = connection.execute(
        select(attempt.c.number, attempt.c.node, attempt.c.state, attempt.c.started_at, task.c.attempt)
        .add_columns(func.coalesce(node.c.state, str(NodeState.REMOVED)))
        .join(task, task.c.id == attempt.c.task)
        .outerjoin(node, node.c.name == attempt.c.node)
        .where(task.c.id == number, attempt.c.number == wanted)
    ).first()
    if row is None:
        raise NotFound(
            f"there is no task {number}" + (f" attempt {attempt_number}" if attempt_number else "")
        )
    return _Source(
        number=number,
        attempt=row[0],
        node=row[1],
        state=State(row[2]),
        current=row[0] == row[4],
        ran=row[3] is not None,
        removed=row[5] == NodeState.REMOVED,
    )


def read_range(path: Path, offset: int, limit: int, tail: int | None) -> tuple[bytes, int, int]:
    """(bytes, offset of the first, size) of a regular file; raises OSError, also for a symbolic link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(f"{path} is not a file")
        size = info.st_size
        start = min(offset, size) if tail is None else _tail_start(descriptor, size, tail)
        return os.pread(descriptor, limit, start), start, size
    finally:
        os.close(descriptor)


def _tail_start(descriptor: int, size: int, lines: int) -> int:
    """Where the last lines begin; a last line without its newline counts as one."""
    if lines == 0:
        return size
    end = size
    wanted = lines
    if size and os.pread(descriptor, 1, size - 1) == b"\n":
        wanted += 1
    while end > 0:
        begin = max(0, end - _TAIL_BLOCK)
        block = os.pread(descriptor, end - begin, begin)
        count = block.count(b"\n")
        if count >= wanted:
            at = len(block)
            for _ in range(wanted):
                at = block.rindex(b"\n", 0, at)
            return begin + at + 1
        wanted -= count
        end = begin
    return 0
