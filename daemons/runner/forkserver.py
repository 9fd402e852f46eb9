"""The runner's side of the fork server and of the shims: starting, finding again, talking to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from daemons.common.log import Log
from daemons.runner.model import TryLater
from daemons.runner.shim.sockets import MAX_LINE, PROTOCOL, at, server_name
from daemons.runner.shim.status import Status, read_status
from daemons.runner.threads import Threads

log = Log("forkserver")
SETTLE = 10.0  # seconds in which a fork server must answer
ROOT = Path(__file__).resolve().parents[2]  # where our packages are

Reply = dict[str, Any]


def command(folder: Path) -> list[str]:
    """How to start the fork server of a runner's folder.

    Without site-packages, environment and working folder it starts in milliseconds and inherits nothing.
    Our root comes last on the path: nothing beside our packages can stand in for the standard library.
    """
    code = "import sys; sys.path.append(sys.argv[1]); from daemons.runner.shim.server import main; "
    return [sys.executable, "-I", "-S", "-c", f"{code}sys.exit(main(sys.argv[2]))", str(ROOT), str(folder)]


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
            return await asyncio.wait_for(self.next(), timeout)
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
        opening = asyncio.open_unix_connection(at(folder, name), limit=2 * MAX_LINE)
        return Line(*await asyncio.wait_for(opening, SETTLE))
    except (OSError, TimeoutError):
        return None


class ForkServer:
    """Forks shims through the fork server, which is started when it doesn't live."""

    def __init__(self, folder: Path, threads: Threads) -> None:
        self._path = folder
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._attempts = os.open(folder / "attempts", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._threads = threads
        self._spawning = asyncio.Lock()
        self._at_once = asyncio.Semaphore(16)
        self._held: Line | None = None

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
        os.close(self._attempts)
        os.close(self._folder)

    async def ask(self, op: str, name: str) -> Line:
        """A connection on which the answers to ``op`` come; raises TryLater when there is no fork server."""
        async with self._at_once:
            if self._held is None or self._held.gone:
                self._held = await self._reach()
            line = await self._reach()
            line.send({"op": op, "name": name})
            return line

    async def _reach(self) -> Line:
        """A connection that the fork server has acknowledged: from then on it doesn't end by itself."""
        deadline = asyncio.get_running_loop().time() + SETTLE
        delay = 0.01
        while asyncio.get_running_loop().time() < deadline:
            line = await connect(self._folder, server_name())
            if line is not None:
                hello = await line.answer()
                if hello is not None and hello.get("hello") == PROTOCOL:
                    return line
                line.close()
            async with self._spawning:
                await self._spawn()
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1)
        raise TryLater("the fork server doesn't start; runner/forkserver.log says why")

    async def _spawn(self) -> None:
        """Start one; where one lives already the new one ends at once."""
        try:
            with (self._path / "forkserver.log").open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *command(self._path),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                    start_new_session=True,
                )
        except OSError as error:
            raise TryLater(f"the fork server can't be started: {error}") from error
        try:
            await asyncio.wait_for(process.wait(), SETTLE)
        except TimeoutError:
            process.kill()
            log.warning("forkserver_hangs")

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

    async def statuses(self, name: str, *, claimed: bool) -> AsyncIterator[Status]:
        """Every status of an attempt from now to its final one; starts it unless it is claimed.

        Whatever is killed meanwhile, shim or fork server, somebody keeps the attempt again. Raises TryLater
        when it was not started and can't be now.
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
                line = await self.ask("adopt" if claimed else "start", name)
            with contextlib.closing(line):
                while (message := await line.next()) is not None:
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
