"""A window on a log stream: a contiguous run of its bytes as lines, grown at either end by ranged reads.

The stream may be larger than memory; only what was looked at is here, and offsets say where it stands.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from rich.style import Style

from tui.ansi import style_after

MAX_BYTES = 24 * 2**20
"""Bytes kept; the end away from the reading goes first."""
MAX_LINE = 16 * 1024
"""Longer lines are broken: a stream without line breaks must not become one line of a gigabyte."""
_COLOURS_LAST = 500
"""Lines that a colour nobody resets is followed over."""
_RESET = re.compile(rb"\x1b\[0*m")
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


@dataclass(frozen=True, slots=True)
class Line:
    """``offset`` and ``end`` in the stream; ``data`` is what is left of it to show."""

    offset: int
    end: int
    data: bytes

    @property
    def complete(self) -> bool:
        return self.data.endswith(b"\n") or self.end - self.offset >= MAX_LINE


def split(offset: int, data: bytes) -> list[Line]:
    """Lines of a run of bytes; a progress bar that overwrites itself is kept as what it shows at the end."""
    return [Line(start, end, _collapsed(part)) for start, end, part in _parts(offset, data, MAX_LINE)]


def _parts(offset: int, data: bytes, room: int) -> list[tuple[int, int, bytes]]:
    """(start, end, bytes) of each line, the first at most ``room`` long and the others MAX_LINE."""
    found: list[tuple[int, int, bytes]] = []
    for match in _LINE.finditer(data):
        start = match.start()
        while start < match.end():
            end = min(start + (MAX_LINE if found else room), match.end())
            found.append((offset + start, offset + end, data[start:end]))
            start = end
    return found


def _collapsed(data: bytes) -> bytes:
    """Without what a carriage return has overwritten, but for the last whole picture."""
    body = data.rstrip(b"\r\n")
    start = body.rfind(b"\r")
    return data if start < 0 else data[start + 1 :]


class LogBuffer:
    """Lines of ``[start, end)``. ``size`` is what the stream had when we last asked."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.start = 0
        self.end = 0
        self.size = 0
        self.ended = False
        self.loaded = False

    @property
    def at_start(self) -> bool:
        return self.start == 0

    @property
    def at_end(self) -> bool:
        return self.end >= self.size

    def clear(self, offset: int = 0) -> None:
        """Begin anew at an offset."""
        self.lines.clear()
        self.start = self.end = offset
        self.loaded = False

    def append(self, offset: int, data: bytes, size: int, *, ended: bool) -> int:
        """Bytes after the end; returns how many lines left at the front. A gap (the middle of a capped log
        was dropped) begins the window anew behind it."""
        self.size, self.ended, self.loaded = max(size, offset + len(data)), ended, True
        if offset > self.end or not self.lines:
            gone = len(self.lines)
            self.clear(offset)
            self.loaded = True
        else:
            gone = 0
            data = data[self.end - offset :]
            offset = self.end
        if not data:
            return gone
        self.end = offset + len(data)
        if self.lines and not self.lines[-1].complete:
            last = self.lines.pop()
            (_, end, first), *rest = _parts(offset, data, MAX_LINE - (last.end - last.offset))
            self.lines.append(Line(last.offset, end, _collapsed(last.data + first)))
            self.lines.extend(Line(start, end, _collapsed(part)) for start, end, part in rest)
        else:
            self.lines.extend(split(offset, data))
        return gone + self._trim_front()

    def prepend(self, offset: int, data: bytes) -> int:
        """Bytes before the start (from their first line break on); returns how many lines."""
        data = data[: max(0, self.start - offset)]
        if offset > 0:
            cut = data.find(b"\n") + 1
            if 0 < cut < len(data):
                offset, data = offset + cut, data[cut:]
        if not data or offset + len(data) != self.start:
            return 0
        fresh = split(offset, data)
        self.lines[:0] = fresh
        self.start = offset
        while self.end - self.start > MAX_BYTES and len(self.lines) > 1:
            self.lines.pop()
            self.end = self.lines[-1].end
        return len(fresh)

    def _trim_front(self) -> int:
        gone = 0
        while self.end - self.lines[gone].offset > MAX_BYTES and gone < len(self.lines) - 1:
            gone += 1
        del self.lines[:gone]
        self.start = self.lines[0].offset
        return gone

    def style_at(self, index: int) -> Style:
        """The colours that a line begins with: what the lines before left, back to one that resets them."""
        first = index
        while first > max(0, index - _COLOURS_LAST):
            first -= 1
            if _RESET.search(self.lines[first].data):
                break
        style = Style.null()
        for line in self.lines[first:index]:
            style = style_after(line.data, style)
        return style

    def index(self, offset: int) -> int:
        """The line that holds a byte of the stream, or the nearest one here."""
        return max(0, bisect_right(self.lines, offset, key=lambda line: line.offset) - 1)
