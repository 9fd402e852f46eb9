"""Brings local logs to where people look for them, and keeps them under their cap.

``<shared_dir>/task_outputs/<id>.out`` and ``task_errors/<id>.err`` (attempt n > 1: ``<id>.<n>.out``) have the
same bytes at the same offsets as the local log. Copying has a thread of its own, because a shared folder may
hang for hours.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from daemons.common.log import Log
from daemons.common.threads import Threads, until
from daemons.runner.agent import Agent
from daemons.runner.folders import STREAM_FILES, folder_of
from daemons.runner.journal import Journal
from daemons.runner.logs import data_from, hole_from
from daemons.runner.model import Key
from hakuriver.fields import Stream

log = Log("copier")
INTERVAL = 1.0
PATIENCE = 30.0  # seconds after which a pass over the shared folder is said to hang
CHUNK = 2**20
TURN = 64 * CHUNK  # bytes of one log before the others get their turn
_FOLDERS: dict[Stream, str] = {"stdout": "task_outputs", "stderr": "task_errors"}
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


@dataclass(frozen=True, slots=True)
class Job:
    """The logs of one attempt."""

    key: Key
    cluster: str
    ended: bool


def target_of(shared: Path, key: Key, stream: Stream) -> Path:
    """Where the copy of a stream lies."""
    attempt = "" if key[1] == 1 else f".{key[1]}"
    return shared / _FOLDERS[stream] / f"{key[0]}{attempt}.{STREAM_FILES[stream]}"


class Copier:
    """Copies what is new, from where the copy ends."""

    def __init__(self, attempts: Path, shared: Path, cap: int) -> None:
        self._attempts = attempts
        self._shared = shared
        self._cap = cap
        self._reached: dict[tuple[Key, Stream], int] = {}
        self._refused: set[Path] = set()

    def run(self, jobs: Iterable[Job]) -> tuple[list[Key], str]:
        """One pass: whose copies are complete, and what stood in the way of another."""
        done: list[Key] = []
        trouble = ""
        for job in jobs:
            try:
                if self._copy(job) and job.ended:
                    done.append(job.key)
            except OSError as error:
                trouble = str(error)
        return done, trouble

    def _copy(self, job: Job) -> bool:
        """Copy both streams; True when nothing is left to copy."""
        whole = [self._stream(job, stream) for stream in STREAM_FILES]
        if all(whole) and job.ended:
            for stream in STREAM_FILES:
                self._reached.pop((job.key, stream), None)
        return all(whole)

    def _stream(self, job: Job, stream: Stream) -> bool:
        path = folder_of(self._attempts, job.key) / "io" / STREAM_FILES[stream]
        target = target_of(self._shared, job.key, stream)
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return True  # the task itself removed it: there is nothing to copy
        try:
            size = os.fstat(source).st_size
            reached = self._reached.get((job.key, stream), 0)
            if (size == reached and not (job.ended and size == 0)) or target in self._refused:
                return True
            if not self._is_ours(target, job.cluster):
                log.warning("foreign_file_stays", path=str(target), task=job.key[0])
                self._refused.add(target)
                return True
            reached = _append(source, target, size, self._cap)
            self._reached[job.key, stream] = reached
            return reached >= size
        finally:
            os.close(source)

    def _is_ours(self, target: Path, cluster: str) -> bool:
        """Whether we may write there: it is new, or our mark says that we made it."""
        mark = target.parent / f".hakuriver-{cluster[:8]}" / target.name
        if mark.exists():
            return True
        mark.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.open("xb").close()
        except FileExistsError:
            return False
        mark.touch()
        return True


def _append(source: int, target: Path, size: int, cap: int) -> int:
    """Copy from where the target ends, holes kept as holes; returns how far it is."""
    file = os.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        offset = os.fstat(file).st_size
        last = min(size, offset + TURN)
        while offset < last:
            start = data_from(source, offset, size)
            data = os.pread(source, min(CHUNK, max(0, hole_from(source, start, size) - start)), start)
            if not data:
                os.ftruncate(file, size)
                offset = size
                break
            offset = start + os.pwrite(file, data, start)
        enforce(file, cap)
        return offset
    finally:
        os.close(file)


def enforce(file: int, cap: int) -> bool:
    """Drop the middle of a log that occupies more than ``cap`` bytes: a quarter of the cap stays at the
    head, half of it at the tail, offsets stay as they are. False where the file system can't."""
    facts = os.fstat(file)
    if facts.st_blocks * 512 <= cap:
        return True
    start = -(-(cap // 4) // 4096) * 4096
    end = (facts.st_size - cap // 2) // 4096 * 4096
    if end <= start:
        return True
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_int(file), ctypes.c_int(_KEEP_SIZE | _PUNCH_HOLE))
    if libc.fallocate(*arguments, ctypes.c_long(start), ctypes.c_long(end - start)) == 0:
        return True
    if ctypes.get_errno() in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class LogKeeper:
    """The two loops over all logs: the cap on local ones, and the copies."""

    def __init__(
        self, agent: Agent, journal: Journal, threads: Threads, *, attempts: Path, shared: Path, cap: int
    ) -> None:
        self._agent = agent
        self._journal = journal
        self._attempts = attempts
        self._cap = cap
        self._threads = threads
        self._shared_threads = Threads("shared-dir", 1)
        self._copier = Copier(attempts, shared, cap)

    def close(self) -> None:
        self._shared_threads.close()

    async def caps(self) -> None:
        """Look at the logs of what lives, for ever."""
        while True:
            await asyncio.sleep(INTERVAL)
            jobs = [Job(*row) for row in await self._journal.call(self._journal.uncopied)]
            if not await self._cap_all(jobs):
                log.warning("no_log_cap", reason="this file system can't drop the middle of a file")
                await asyncio.sleep(3600)

    async def _cap_all(self, jobs: Iterable[Job]) -> bool:
        """Cap logs; False where the file system can't."""
        try:
            return await self._threads.call(self._enforce_all, jobs)
        except (OSError, TimeoutError) as error:
            log.warning("log_cap_delayed", error=str(error) or "timed out")
            return True

    def _enforce_all(self, jobs: Iterable[Job]) -> bool:
        for job in jobs:
            for name in STREAM_FILES.values():
                with _writable(folder_of(self._attempts, job.key) / "io" / name) as file:
                    if file is not None and not enforce(file, self._cap):
                        return False
        return True

    async def copies(self) -> None:
        """Copy what is new, for ever; a shared folder that hangs stops this loop and nothing else."""
        delay, told = INTERVAL, ""
        while True:
            self._agent.ended.clear()
            jobs = [Job(*row) for row in await self._journal.call(self._journal.uncopied)]
            done, trouble = await self._patiently(jobs)
            if done:
                await self._cap_all([job for job in jobs if job.key in done])  # nobody looks at them later
                await self._agent.records.store(self._journal.copied, done)
            if trouble and trouble != told:
                log.warning("copies_delayed", error=trouble)
            told = trouble
            if trouble:
                await asyncio.sleep(delay)
            delay = min(delay * 2, PATIENCE) if trouble else INTERVAL
            await until(self._agent.ended, INTERVAL)

    async def _patiently(self, jobs: list[Job]) -> tuple[list[Key], str]:
        if not jobs:
            return [], ""
        future = asyncio.wrap_future(self._shared_threads.submit(lambda: self._copier.run(jobs)))
        try:
            await asyncio.wait({future}, timeout=PATIENCE)
            if not future.done():
                log.warning("shared_dir_hangs", seconds=PATIENCE)
            return await future
        finally:
            future.cancel()


@contextmanager
def _writable(path: Path) -> Iterator[int | None]:
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)
