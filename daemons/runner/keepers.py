"""The runner's side of those who keep attempts: shims, and whoever takes over when one was killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from daemons.common.threads import Threads
from daemons.runner.model import TryLater
from daemons.runner.shim.claim import open_attempt
from daemons.runner.shim.sockets import MAX_LINE, at
from daemons.runner.shim.status import Status, read_status

SETTLE = 10.0  # seconds in which whoever listens must answer
ROOT = Path(__file__).resolve().parents[2]  # where our packages are

Reply = dict[str, Any]


def shim_command(module: str, *words: str) -> list[str]:
    """How to start ``main(*words)`` of a module of the shim's package.

    Without site-packages, environment and working folder it starts in milliseconds and inherits nothing.
    Our root comes last on the path: nothing beside our packages can stand in for the standard library.
    """
    code = f"import sys; sys.path.append(sys.argv[1]); from daemons.runner.shim.{module} import main; "
    return [sys.executable, "-I", "-S", "-c", f"{code}sys.exit(main(*sys.argv[2:]))", str(ROOT), *words]


class Line:
    """A connection on which each line is a JSON object."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Reply) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def next(self) -> Reply | None:
        """The next line; None when the other side is gone."""
        try:
            found = json.loads(await self._reader.readline())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    async def answer(self, timeout: float = SETTLE) -> Reply | None:
        """The next line, None when none comes in time."""
        try:
            async with asyncio.timeout(timeout):
                return await self.next()
        except TimeoutError:
            return None

    @property
    def gone(self) -> bool:
        """Whether the other side has closed (for a connection on which nothing is read any more)."""
        return self._reader.at_eof()

    def close(self) -> None:
        self._writer.close()


async def connect(folder: int, name: str) -> Line | None:
    """Connect to a socket in an open folder; None when nobody listens there."""
    try:
        async with asyncio.timeout(SETTLE):
            return Line(*await asyncio.open_unix_connection(at(folder, name), limit=2 * MAX_LINE))
    except (OSError, TimeoutError):
        return None


class Keepers:
    """Whoever keeps the attempts of a folder, found by their control sockets."""

    def __init__(self, attempts: Path, threads: Threads) -> None:
        self._attempts = os.open(attempts, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._threads = threads

    def close(self) -> None:
        os.close(self._attempts)

    async def status(self, name: str) -> Status | None:
        """What is stored about an attempt."""
        return await self._threads.call(self._read_status, name)

    def _read_status(self, name: str) -> Status | None:
        try:
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._attempts)
        except OSError:
            return None
        try:
            return read_status(folder)
        finally:
            os.close(folder)

    def lock(self, name: str) -> int:
        """An attempt's folder, locked as its keeper has it (blocking); raises OSError, BlockingIOError while
        one lives."""
        return open_attempt(self._attempts, name)

    async def control(self, name: str) -> Line | None:
        """A connection to whoever keeps the attempt; None when nobody does."""
        return await connect(self._attempts, f"{name}/control")

    async def order(self, name: str, message: Reply) -> Reply | None:
        """One exchange with the keeper of an attempt; None when there is none."""
        line = await self.control(name)
        if line is None:
            return None
        try:
            line.send(message)
            return await line.answer()
        finally:
            line.close()

    async def follow(
        self, name: str, reach: Callable[[bool], Awaitable[Line | None]], *, claimed: bool
    ) -> AsyncIterator[Status]:
        """Every status of an attempt from now to its final one.

        ``reach(claimed)`` sees to it that somebody keeps it where nobody answers, and starts it unless it is
        claimed; with the connection on which that is told, if there is one. Raises TryLater when it was not
        started and can't be now.
        """
        delay = 0.02
        while True:
            status = await self.status(name)
            if status is not None and status["phase"] == "final":
                yield status
                return
            line = await self.control(name) if status is not None else None
            if line is not None:
                line.send({"op": "watch"})
            else:
                line = await reach(claimed)
            with contextlib.closing(line) if line is not None else contextlib.nullcontext():
                while line is not None and (message := await line.next()) is not None:
                    refused = message.get("refused")
                    if refused == "claimed":
                        claimed = True
                        break
                    if refused is not None:
                        raise TryLater(str(refused))
                    if "adopted" in message:
                        break
                    claimed, delay = True, 0.02
                    yield message["status"]
                    if message["status"]["phase"] == "final":
                        return
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1)
