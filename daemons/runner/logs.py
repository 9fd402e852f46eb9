"""Reading local logs: ranges, tails, holes. The local file is the truth; an offset always means the same."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAX_READ = 2**20
MAX_TAIL = 16 * 2**20
_BLOCK = 65536


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a log: where they begin, and how much there is in all."""

    offset: int
    size: int
    data: bytes


@contextmanager
def _open(path: Path) -> Iterator[int | None]:
    """The file, never through a link that a task has put there; None when there is none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)


def read(path: Path, offset: int, limit: int) -> Part:
    """At most ``limit`` bytes from ``offset`` on; where the middle was dropped, from behind the hole."""
    with _open(path) as file:
        if file is None:
            return Part(offset, 0, b"")
        for _ in range(10):
            size = os.fstat(file).st_size
            start = data_from(file, min(offset, size), size)
            end = hole_from(file, start, size)
            data = os.pread(file, max(0, min(limit, MAX_READ, end - start)), start)
            # what was dropped while we read it would look like zeros
            if data_from(file, start, size) == start and hole_from(file, start, size) >= start + len(data):
                return Part(start, size, data)
        return Part(offset, size, b"")


def data_from(file: int, offset: int, size: int) -> int:
    """The first offset at or behind ``offset`` that has data; ``size`` when there is none."""
    return _seek(file, offset, size, os.SEEK_DATA, offset)


def hole_from(file: int, offset: int, size: int) -> int:
    """Where the data that ``offset`` lies in ends."""
    return _seek(file, offset, size, os.SEEK_HOLE, size)


def _seek(file: int, offset: int, size: int, what: int, unsupported: int) -> int:
    if offset >= size:
        return offset
    try:
        return min(size, os.lseek(file, offset, what))
    except OSError as error:
        return size if error.errno == errno.ENXIO else unsupported


def tail_offset(path: Path, lines: int) -> int:
    """Where the last ``lines`` lines begin (a last line without its end counts), at most MAX_TAIL back."""
    with _open(path) as file:
        if file is None:
            return 0
        size = os.fstat(file).st_size
        if lines == 0 or size == 0:
            return size
        wanted = lines + (1 if os.pread(file, 1, size - 1) == b"\n" else 0)
        end, least = size, max(0, size - MAX_TAIL)
        while end > least:
            start = max(least, end - _BLOCK)
            block = os.pread(file, end - start, start)
            found = block.count(b"\n")
            if found >= wanted:
                for _ in range(wanted):
                    block = block[: block.rindex(b"\n")]
                return start + len(block) + 1
            wanted -= found
            end = start
        return least
