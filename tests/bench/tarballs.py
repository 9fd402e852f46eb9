"""What it costs to check an image while it is copied: time, memory, and how long the event loop waits."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tarfile
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from daemons.common.threads import Threads
from daemons.host.environments.archives import copy_image
from daemons.host.environments.disk import Writer

PIECE = bytes(2**20)


def image(mebibytes: int) -> Iterator[bytes]:
    """The tarball of an image with one layer of zeros, piece by piece."""
    layer = hashlib.sha256()
    for _ in range(mebibytes):
        layer.update(PIECE)
    rootfs = {"diff_ids": [f"sha256:{layer.hexdigest()}"]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": ["x:1"], "Layers": ["1/layer.tar"]}]).encode()
    yield _header("1/layer.tar", mebibytes * len(PIECE))
    for _ in range(mebibytes):
        yield PIECE
    for each, data in ((name, config), ("manifest.json", manifest)):
        yield _header(each, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


class Pieces:
    """Pieces as something that is read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        self._rest = self._rest or next(self._pieces, b"")
        found, self._rest = (self._rest[:size], self._rest[size:]) if size >= 0 else (self._rest, b"")
        return found


def rows(mebibytes: int = 1024) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory(prefix="hakuriver-bench-") as folder:
        seconds, lag, grown = asyncio.run(_copy(Path(folder), mebibytes))
    cost = f"{seconds / mebibytes * 1024:.1f} s a GiB"
    yield (
        f"check and copy an image of {mebibytes} MiB",
        f"{cost}, the loop waits {lag * 1000:.1f} ms at most, {grown} MiB more memory",
    )


async def _copy(folder: Path, mebibytes: int) -> tuple[float, float, int]:
    lags: list[float] = []
    meter = asyncio.create_task(_meter(lags))
    thread, writer = Threads("bench", 1), Writer(folder, "bench", 1, lambda _: None)
    await asyncio.sleep(0.5)
    lags.clear()
    before, started = _resident(), time.perf_counter()
    await thread.call_within(600, partial(copy_image, Pieces(image(mebibytes)), writer.write))
    seconds, after = time.perf_counter() - started, _resident()
    meter.cancel()
    writer.discard()
    thread.close()
    return seconds, max(lags), (after - before) >> 20


async def _meter(lags: list[float]) -> None:
    while True:
        started = time.perf_counter()
        await asyncio.sleep(0.005)
        lags.append(time.perf_counter() - started - 0.005)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)
