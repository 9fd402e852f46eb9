"""The runner's side of the fork server: starting it, asking it for shims."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from daemons.common.log import Log
from daemons.common.threads import Threads
from daemons.runner.keepers import SETTLE, Keepers, Line, connect, shim_command
from daemons.runner.model import TryLater
from daemons.runner.shim.sockets import PROTOCOL, server_name

log = Log("forkserver")


def command(folder: Path) -> list[str]:
    """How to start the fork server of a runner's folder."""
    return shim_command("server", str(folder))


class ForkServer(Keepers):
    """Forks shims through the fork server, which is started when it doesn't live."""

    def __init__(self, folder: Path, threads: Threads) -> None:
        super().__init__(folder / "attempts", threads)
        self._path = folder
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._spawning = asyncio.Lock()
        self._at_once = asyncio.Semaphore(16)
        self._held: Line | None = None

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
        os.close(self._folder)
        super().close()

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
                line = await connect(self._folder, server_name())
                if line is None:  # nobody else started one meanwhile
                    await self._spawn()
                else:
                    line.close()
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
            async with asyncio.timeout(SETTLE):
                await process.wait()
        except TimeoutError:
            process.kill()
            log.warning("forkserver_hangs")
