"""The folder of tarballs, asked from the event loop.

It may be on a disk that is full or on a server that hangs: everything has an end, and says what it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from daemons.common.threads import Threads
from daemons.host.environments import disk
from daemons.host.environments.disk import STUCK, Lying, Sidecar, Writer, explained
from hakuriver.environments import SIDECAR, tarball_name
from hakuriver.errors import Conflict, Unreachable

PATIENCE = 10.0
PIECE = 2**19
T = TypeVar("T")


class Tarballs:
    """The folder, asked from the event loop."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self.folder = folder
        self.cluster = cluster
        self._threads = Threads("tarballs", 4)

    def close(self) -> None:
        self._threads.close()

    def path(self, name: str, version: int) -> Path:
        """Where a version lies, if it does."""
        return self.folder / tarball_name(name, version)

    @contextlib.asynccontextmanager
    async def writing(
        self, name: str, version: int, progress: Callable[[int], None]
    ) -> AsyncIterator[Writer]:
        """A new tarball; what isn't published is gone afterwards."""
        writer = await self._call(partial(Writer, self.folder, name, version, progress))
        try:
            yield writer
        finally:
            writer.give_up()
            with contextlib.suppress(Unreachable):
                await self._call(writer.discard)

    async def guard(self, writer: Writer, running: Awaitable[T]) -> T:
        """Wait for what writes, unless the folder hangs; raises Unreachable then."""
        task = asyncio.ensure_future(running)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=1)
                if writer.stuck:
                    raise self._hangs()
            return task.result()
        finally:
            if not task.done():
                writer.give_up()
                task.cancel()
                await asyncio.wait([task], timeout=1)

    async def publish(self, writer: Writer, sidecar: Sidecar, *, replace: bool = False) -> None:
        """See ``Writer.publish``."""
        await self._call(partial(writer.publish, sidecar, replace=replace), STUCK)

    async def scan(self) -> list[Lying]:
        """What lies there, after what died writers left was removed."""

        def scan() -> list[Lying]:
            disk.sweep(self.folder, self.cluster)
            return disk.look(self.folder)

        return await self._call(scan, STUCK)

    async def exists(self, name: str, version: int) -> bool:
        """Whether the file of a version, or something else of that name, is there."""
        return await self._call(lambda: os.path.lexists(self.path(name, version)))

    async def require(self, name: str, version: int, size: int) -> Path:
        """A tarball that must be there; raises NotFound or Unreachable."""
        await self._call(lambda: os.close(disk.open_tarball(self.path(name, version), size)))
        return self.path(name, version)

    async def write_sidecar(self, sidecar: Sidecar) -> None:
        """Put it beside its tarball."""
        await self._call(lambda: disk.write_sidecar(self.folder, sidecar))

    async def delete(self, name: str, version: int) -> None:
        """Remove a tarball, then its sidecar."""

        def delete() -> None:
            path = self.path(name, version)
            path.unlink(missing_ok=True)
            disk.sync_folder(self.folder)
            path.with_name(path.name + SIDECAR).unlink(missing_ok=True)

        await self._call(delete)

    async def read(self, name: str, version: int, size: int, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` to before ``end``, in pieces; raises NotFound, Unreachable."""
        file = await self._call(partial(disk.open_tarball, self.path(name, version), size))
        try:
            while start < end:
                piece = await self._call(partial(os.pread, file, min(PIECE, end - start), start), STUCK)
                if not piece:
                    raise Unreachable(f"{self.path(name, version)} became shorter")
                start += len(piece)
                yield piece
        finally:
            self._threads.submit(partial(os.close, file))

    async def verify(
        self, name: str, version: int, size: int, sha256: str, progress: Callable[[int], None]
    ) -> Path:
        """A tarball that is what it must be, read whole; raises NotFound, Unreachable, Conflict."""
        sums = hashlib.sha256()
        done = 0
        async for piece in self.read(name, version, size, 0, size):
            await self._call(partial(sums.update, piece))
            done += len(piece)
            progress(done)
        if sums.hexdigest() != sha256:
            raise Conflict(
                f"{self.path(name, version)} is damaged: it isn't what was written there",
                hint=f"hakuriver env rollback {name} goes back to another version",
                code="bad_tarball",
            )
        return self.path(name, version)

    async def same(self, path: Path, size: int, sha256: str) -> bool:
        """Whether a file of the folder has just these contents."""

        def hashed() -> bool:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != size:
                    return False
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256

        return await self._call(hashed, 3600)

    async def _call(self, function: Callable[[], T], seconds: float = PATIENCE) -> T:
        def call() -> T:
            with explained(self.folder):
                return function()

        try:
            return await self._threads.call_within(seconds, call)
        except TimeoutError:
            raise self._hangs() from None

    def _hangs(self) -> Unreachable:
        return Unreachable(f"{self.folder} doesn't answer", hint="is its file server up?")
