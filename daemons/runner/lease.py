"""The runner's side of the lease: it grows with each heartbeat that the host acknowledged."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from daemons.common.threads import Threads
from daemons.runner.model import TryLater
from daemons.runner.shim.lease import NAME, encode_lease
from daemons.runner.shim.proc import boottime


class Lease:
    """Until when fenced attempts may run here."""

    def __init__(self, folder: Path, boot_id: str, threads: Threads) -> None:
        self._path = folder / NAME
        self._boot_id = boot_id
        self._threads = threads
        self._deadline = 0.0
        self._written = 0.0
        self._writing = asyncio.Lock()

    def granted(self, sent: float, seconds: float) -> None:
        """The host acknowledged a heartbeat that was sent at ``sent`` (CLOCK_BOOTTIME)."""
        self._deadline = max(self._deadline, sent + seconds)

    async def write(self) -> None:
        """Let those who fence know; raises OSError, TimeoutError."""
        async with self._writing:
            deadline = self._deadline
            if deadline > self._written:
                await self._threads.call(self._store, deadline)
                self._written = deadline

    async def require(self) -> None:
        """Raises TryLater unless a fenced attempt may start now."""
        if boottime() >= self._deadline:
            raise TryLater("waits for the host to acknowledge a heartbeat: without it nothing may start here")
        try:
            await self.write()
        except (OSError, TimeoutError) as error:
            raise TryLater(f"the lease can't be written: {error}") from error

    def _store(self, deadline: float) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o600)
        try:
            os.pwrite(file, encode_lease(deadline, self._boot_id), 0)
        finally:
            os.close(file)
