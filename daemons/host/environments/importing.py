"""A version of a tarball that somebody uploads: believed only when all of it was checked on the way."""

from __future__ import annotations

import asyncio
import hashlib
import platform
import queue
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from daemons.common.threads import Threads
from daemons.host import clock
from daemons.host.environments.archives import PIECE, Copied, copy_image
from daemons.host.environments.catalog import VersionRow
from daemons.host.environments.disk import Sidecar, Writer
from daemons.host.environments.versions import Versions
from daemons.host.environments.work import Work
from hakuriver.environments import parse_tarball
from hakuriver.errors import UsageError

SECONDS = 24 * 3600.0
SILENCE = 600.0
AHEAD = 86_400.0
"""Seconds that a version may lie in the future: clocks differ."""
LINGER = 256 * 2**20
_PIECES = 4
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What images call machines that call themselves something else."""


class Upload:
    """Bytes on their way from the event loop (``feed``) to a thread (``read``), a few megabytes at most."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_PIECES)
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._sha = hashlib.sha256()
        self._rest = b""
        self._over = False

    async def feed(self, stream: AsyncIterator[bytes]) -> None:
        """All of a stream; one that breaks off is never taken for one that ends. What nobody wants any more
        is still read for a while: an answer to somebody who goes on sending is lost with the connection."""
        held: list[bytes] = []
        size = dropped = 0
        async for piece in stream:
            held.append(piece)
            size += len(piece)
            if size >= PIECE:
                if not await self._put(b"".join(held)):
                    dropped += size
                    if dropped > LINGER:
                        return
                held, size = [], 0
        await self._put(b"".join(held))
        await self._put(b"")

    def abandon(self) -> None:
        """No more will come, and what came is worth nothing."""
        self._over = True
        self._room.set()

    @property
    def sha256(self) -> str:
        """Of all that was read."""
        return self._sha.hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        """In a thread: some bytes, none at the end; raises UsageError when the upload broke off."""
        if not self._rest:
            self._rest = self._next()
        found, self._rest = (self._rest[:size], self._rest[size:]) if size >= 0 else (self._rest, b"")
        return found

    def _next(self) -> bytes:
        deadline = time.monotonic() + SILENCE
        while not self._over and time.monotonic() < deadline:
            try:
                piece = self._pieces.get(timeout=0.5)
            except queue.Empty:
                continue
            self._loop.call_soon_threadsafe(self._room.set)
            if piece:
                self._sha.update(piece)
                self.size += len(piece)
            else:
                self._pieces.put(b"")  # whoever reads on finds the end again
            return piece or b""
        raise UsageError("the upload broke off", hint="nothing was kept; send it again")

    async def _put(self, piece: bytes) -> bool:
        """Hand it over; False when nobody wants it."""
        while not self._over:
            self._room.clear()
            try:
                self._pieces.put_nowait(piece)
            except queue.Full:
                await self._room.wait()
            else:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Imported:
    """A new version; ``warning`` is empty where there is nothing to be said of it."""

    row: VersionRow
    warning: str


@dataclass(frozen=True, slots=True)
class Importing:
    """What it takes."""

    versions: Versions

    async def take(
        self, work: Work, name: str, upload: Upload, *, filename: str, note: str, by: str
    ) -> Imported:
        """A new version; its number is the one in ``filename`` where that is free. Raises BadTarball for what
        isn't one whole image, StorageFull, Unreachable, Conflict; nothing is left then."""
        versions, tarballs = self.versions, self.versions.tarballs
        work.say("checking what is sent")
        free = await versions.free(name)
        async with tarballs.writing(name, free, work.progress) as writer:
            thread = Threads("import", 1)
            try:
                copying = thread.call_within(SECONDS, partial(_copy, upload, writer))
                copied = await tarballs.guard(writer, copying)
            finally:
                upload.abandon()
                thread.close()
            version, replace = await self._number(name, upload, filename, free)
            sidecar = Sidecar(
                environment=name,
                version=version,
                size=writer.size,
                sha256=writer.sha256,
                image=copied.image,
                note=note,
                by=by,
                created_at=clock.now(),
                cluster=tarballs.cluster,
            )
            row = await versions.publish(writer, sidecar, filename or "a tarball", replace=replace)
        return Imported(row, warning(copied.platform, platform.machine()))

    async def _number(self, name: str, upload: Upload, filename: str, free: int) -> tuple[int, bool]:
        """The version that it gets, and whether a file of that name is replaced: the very file that was
        uploaded, which lay there without having been checked."""
        named = parse_tarball(filename)
        if named is None or named.version is None or named.version > time.time() + AHEAD:
            return free, False
        wanted, tarballs = named.version, self.versions.tarballs
        if await self.versions.known(name, wanted):
            return free, False
        if not await tarballs.exists(name, wanted):
            return wanted, False
        if await tarballs.same(tarballs.path(name, wanted), upload.size, upload.sha256):
            return wanted, True
        return free, False


def warning(made_for: str, machine: str) -> str:
    """What to say of an image for such a platform (``linux/arm64``) on such a machine (as uname names it)."""
    here = f"linux/{_ARCHITECTURES.get(machine, machine)}"
    return "" if made_for == here else f"the image is for {made_for}, but this machine is {here}"


def _copy(upload: Upload, writer: Writer) -> Copied:
    copied = copy_image(upload, writer.write)
    while upload.read(PIECE):  # what is behind the end belongs to what was sent
        pass
    return copied
