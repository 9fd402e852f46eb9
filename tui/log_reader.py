"""Fills a log buffer from ranged reads: the tail first, what grows there, and other places on demand."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from hakuriver.errors import HakuRiverError, UsageError
from tui.log_buffer import LogBuffer
from tui.remote import LOG_WAIT, MAX_READ, LogRead

FIRST_LINES = 1000
CHUNK = 512 * 1024
_OVERLAP = 4096
_ESCAPES = re.compile(rb"\x1b\[[0-9;:?]*[A-Za-z]")
_RETRY_DELAYS = (0.5, 1.0, 2.0, 5.0)


class Read(Protocol):
    """One ranged read of one stream of one task."""

    async def __call__(
        self, *, offset: int | None = None, limit: int = MAX_READ, tail: int | None = None, wait: float = 0
    ) -> LogRead: ...


def pattern(written: str) -> re.Pattern[bytes]:
    """What a search looks for: ``/regex/``, or text in any case; raises UsageError."""
    is_regex = len(written) > 2 and written.startswith("/") and written.endswith("/")
    source = written[1:-1] if is_regex else re.escape(written)
    try:
        return re.compile(source.encode(), re.IGNORECASE)
    except re.error as error:
        raise UsageError(f"{written} is not a regular expression: {error}") from None


class LogReader:
    """Owns a buffer. ``changed`` is called after each change; ``trouble``: why reading fails."""

    def __init__(self, read: Read, changed: Callable[[], None]) -> None:
        self.buffer = LogBuffer()
        self.trouble = ""
        self.progress = ""
        self._read = read
        self._changed = changed
        self._moved = asyncio.Event()
        self._generation = 0

    async def run(self) -> None:
        """Read the tail, then all that comes, until the stream has ended; tries again for ever."""
        failures = 0
        while True:
            try:
                if await self._step():
                    return
                failures, self.trouble = 0, ""
            except HakuRiverError as error:
                self.trouble = error.message
                self._changed()
                await asyncio.sleep(_RETRY_DELAYS[min(failures, len(_RETRY_DELAYS) - 1)])
                failures += 1

    async def _step(self) -> bool:
        buffer, generation = self.buffer, self._generation
        if not buffer.loaded:
            got = await self._read(tail=FIRST_LINES)
        elif not buffer.at_end:
            # the window stands somewhere earlier; it grows by later(), not by itself
            self._moved.clear()
            await self._moved.wait()
            return False
        elif buffer.ended:
            return True
        else:
            got = await self._read(offset=buffer.end, wait=LOG_WAIT)
        if generation == self._generation:
            self._take(got)
        return False

    def _take(self, got: LogRead) -> None:
        before = (self.buffer.end, self.buffer.ended, self.buffer.loaded)
        self.buffer.append(got.offset, got.data, got.size, ended=got.ended)
        if before != (self.buffer.end, self.buffer.ended, True):
            self._changed()

    async def to_end(self) -> None:
        """Put the window on the tail."""
        if not self.buffer.at_end:
            await self._restart(await self._read(tail=FIRST_LINES))

    async def to_offset(self, offset: int) -> None:
        """Put the window around a byte of the stream."""
        start = max(0, offset - CHUNK // 2)
        got = await self._read(offset=start, limit=CHUNK)
        skip = got.data.find(b"\n") + 1 if start > 0 else 0
        await self._restart(LogRead(got.offset + skip, got.data[skip:], got.size, got.ended))

    async def _restart(self, got: LogRead) -> None:
        self._generation += 1
        self.buffer.clear(got.offset)
        self._take(got)
        self._moved.set()
        self._changed()

    async def whole(self, most: int) -> AsyncIterator[bytes]:
        """The last ``most`` bytes of the stream as it is now, in pieces."""
        size = self.buffer.size
        offset = first = max(0, size - most)
        try:
            while offset < size:
                got = await self._read(offset=offset)
                if not got.data:
                    return
                yield got.data
                offset = got.offset + len(got.data)
                self.progress = f"copying {(offset - first) * 100 // (size - first)} %"
                self._changed()
        finally:
            self.progress = ""

    async def earlier(self) -> None:
        """More lines before the window."""
        buffer, generation = self.buffer, self._generation
        if buffer.at_start or not buffer.loaded:
            return
        offset = max(0, buffer.start - CHUNK)
        got = await self._read(offset=offset, limit=buffer.start - offset)
        if generation == self._generation and buffer.prepend(got.offset, got.data):
            self._changed()

    async def later(self) -> None:
        """More lines after a window that doesn't reach the end."""
        generation = self._generation
        if self.buffer.at_end:
            return
        got = await self._read(offset=self.buffer.end, limit=CHUNK)
        if generation == self._generation:
            self._take(got)
            self._moved.set()

    async def find(self, wanted: re.Pattern[bytes], line: int, *, back: bool) -> int | None:
        """Offset of the next line that matches, from a line of the window on; looks beyond the window too."""
        lines = self.buffer.lines
        order = range(line - 1, -1, -1) if back else range(line + 1, len(lines))
        for index in order:
            if matches(wanted, lines[index].data):
                return lines[index].offset
        try:
            return await (self._find_before(wanted) if back else self._find_after(wanted))
        finally:
            self.progress = ""

    async def _find_after(self, wanted: re.Pattern[bytes]) -> int | None:
        offset, size = self.buffer.end, self.buffer.size
        while offset < size:
            got = await self._read(offset=offset)
            if not got.data:
                return None
            if (match := wanted.search(got.data)) is not None:
                return got.offset + got.data.rfind(b"\n", 0, match.start()) + 1
            self._say(offset, size)
            end = got.offset + len(got.data)
            offset = end if end >= size else max(offset + 1, end - _OVERLAP)
        return None

    async def _find_before(self, wanted: re.Pattern[bytes]) -> int | None:
        end = self.buffer.start
        while end > 0:
            start = max(0, end - MAX_READ)
            got = await self._read(offset=start, limit=end - start)
            found = list(wanted.finditer(got.data))
            if found:
                return got.offset + got.data.rfind(b"\n", 0, found[-1].start()) + 1
            self._say(start, self.buffer.size)
            end = start + _OVERLAP if start > 0 and start + _OVERLAP < end else start
        return None

    def _say(self, offset: int, size: int) -> None:
        self.progress = f"searching {offset * 100 // max(1, size)} %"
        self._changed()


def matches(wanted: re.Pattern[bytes], data: bytes) -> bool:
    return wanted.search(_ESCAPES.sub(b"", data) if b"\x1b" in data else data) is not None
