"""The cells of a terminal by ``bittty``, which is pure Python."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from bittty import XTERM, Board, TerminalCaps
from bittty.mode_profiles import UNICODE_GRAPHEME_CLUSTERING
from bittty.style import Color as BitttyColor
from bittty.style import Style as BitttyStyle
from bittty.terminals.base import Terminal
from bittty.terminals.scrollback import MemoryScrollback
from bittty.video import Line
from rich.color import Color
from rich.style import Style

from tui.terminal import plain_lines
from tui.terminal.emulator import HISTORY, Cursor, Emulator, Run
from tui.terminal.stream import Rgb

_MODEL = replace(
    XTERM,
    options=frozenset(),  # no printer, no locator
    mode_capabilities=XTERM.mode_capabilities | {UNICODE_GRAPHEME_CLUSTERING},
    reflows=True,
    da1_response="\x1b[?62;22c",
    da2_response="\x1b[>41;330;0c",
)
_MANY = 200
"""Bytes of plain lines that are worth looking for."""
_STYLE, _TEXT = itemgetter(0), itemgetter(1)


class _Host:
    """Where the board writes what goes back to the program."""

    closed = False

    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, data: str) -> int:
        return self.write_bytes(data.encode())

    def write_bytes(self, data: bytes) -> int:
        self.written += data
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def resize(self, rows: int, cols: int) -> None:
        """Its size is ours to say."""


class BitttyGrid(Terminal):  # type: ignore[misc]  # the library has no types
    """A board without a process. Rows that scroll off are kept as they are, laid out when somebody looks."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(Board(width=columns, height=rows, model=_MODEL))
        self.keeps_scrollback = True
        self._host = _Host()
        self._kept: deque[Line] = deque(maxlen=HISTORY)
        self._kept_width = columns
        self._scrolled = 0
        self.board.host.attach(self._host)
        self.set_caps(TerminalCaps(grapheme_mode="permanently-set"))
        self.attach()

    def feed(self, data: bytes) -> None:
        start = data.find(b"\r\n") + 2
        if len(data) - start < _MANY or start == 1:
            self.board.feed_host_data(data)
            return
        self.board.feed_host_data(data[:start])
        end = plain_lines.plain_until(data, start, self.port.width)
        if end - start >= _MANY and plain_lines.is_open(self.board):
            lines = data[start:end].decode("ascii").split("\r\n")[:-1]
            gone = plain_lines.write(self.board, lines, HISTORY)
            if not self.board.blitter.in_alt_screen:
                self._kept.extend(gone)
                self._scrolled += len(lines)
            start = end
        self.board.feed_host_data(data[start:])

    def resize(self, rows: int, columns: int) -> None:
        self.board.resize(columns, rows)
        self._seen_page = None  # every row is another

    def row(self, y: int) -> list[Run]:
        if y >= 0:
            return _runs(self.port.page.grid[y])
        self._lay_out()
        return _runs(self._kept[y].cells)

    def dirty(self) -> Collection[int]:
        rows: Collection[int] = self.damaged_rows()
        return rows

    def cursor(self) -> Cursor | None:
        place: Cursor | None = self.port.cursor
        return place

    def history(self) -> int:
        self._lay_out()
        return len(self._kept)

    def scrolled(self) -> int:
        return self._scrolled

    def answers(self) -> bytes:
        found = bytes(self._host.written)
        self._host.written.clear()
        return found

    def on_rows_scrolled_off(self, lines: tuple[Line, ...]) -> None:
        self._kept.extend(lines)
        self._scrolled += len(lines)

    def on_scrollback_cleared(self) -> None:
        self._kept.clear()

    def _lay_out(self) -> None:
        """Wrap what is kept at the present width."""
        width = self.port.width
        if self._kept_width == width:
            return
        self._kept_width = width
        self.scrollback = MemoryScrollback()
        super().on_rows_scrolled_off(tuple(self._kept))
        view = self.scrollback.width(width)
        count = len(view)
        self._kept.clear()
        self._kept.extend(Line(tuple(view[at])) for at in range(max(0, count - HISTORY), count))


def _runs(cells: Sequence[tuple[BitttyStyle, str]]) -> list[Run]:
    return [(list(map(_TEXT, group)), _styled(style)) for style, group in groupby(cells, _STYLE)]


@lru_cache(maxsize=4096)
def _styled(style: Any) -> Style:
    return Style(
        color=_colored(style.fg),
        bgcolor=_colored(style.bg),
        bold=style.bold or None,
        dim=style.dim or None,
        italic=style.italic or None,
        underline=style.underline or None,
        reverse=style.reverse or None,
        strike=style.strike or None,
        conceal=style.conceal or None,
    )


def _colored(color: BitttyColor | None) -> Color | None:
    if color is None or color.mode == "default":
        return None
    return Color.from_ansi(color.value) if color.mode == "indexed" else Color.from_rgb(*color.value)


def make_emulator(rows: int, columns: int, *, colors: tuple[Rgb, Rgb] | None = None) -> Emulator:
    """A terminal whose cells are these."""
    return Emulator(rows, columns, BitttyGrid, colors=colors)
