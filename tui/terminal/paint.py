"""Rows of cells → lines to draw. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from tui.terminal.emulator import Run

_UNKNOWN = "\ufffd"
_MOST_COMBINED = 4
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
_COMBINING = frozenset({"Mn", "Me"})
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)
_REVERSED, _NOT_REVERSED = Style(reverse=True), Style(reverse=False)


def line(
    runs: list[Run], width: int, base: Style, *, cursor: int | None = None, over: Style | None = None
) -> Strip:
    """A row as one line of exactly ``width`` cells, with the cursor at a column; ``over``: on every style."""
    if cursor is not None:
        runs = list(_with_cursor(runs, cursor))
    over = Style.null() if over is None else over
    segments = [Segment(text(cells), base + style + over) for cells, style in runs]
    return Strip(segments).adjust_cell_length(width, base)


def text(cells: list[str]) -> str:
    """What the cells show, in exactly as many columns, without any control character."""
    joined = "".join(cells)
    if joined.isascii() and joined.isprintable() and len(joined) == len(cells):
        return joined
    parts: list[str] = []
    at = 0
    while at < len(cells):
        wide = at + 1 < len(cells) and cells[at + 1] == "" and cells[at] != ""
        parts.append(_shown(cells[at], 2 if wide else 1))
        at += 2 if wide else 1
    return "".join(parts)


@lru_cache(maxsize=8192)
def _shown(cell: str, width: int) -> str:
    """A character with its accents in ``width`` columns.

    Joiners and variation selectors are left out: terminals disagree about how wide what they make is.
    """
    character = cell[:1]
    if not character or character == " " or cell_len(character) == 0:
        return " " * width
    if unicodedata.category(character) in _HIDDEN:
        return _UNKNOWN + " " * (width - 1)
    accents = [one for one in cell[1:] if _combines(one)][:_MOST_COMBINED]
    shown = "".join((character, *accents))
    taken = cell_len(shown)
    return shown + " " * (width - taken) if taken <= width else _UNKNOWN + " " * (width - 1)


def _combines(character: str) -> bool:
    return (
        unicodedata.category(character) in _COMBINING
        and ord(character) not in _VARIATION_SELECTORS
        and cell_len(character) == 0
    )


def _with_cursor(runs: list[Run], cursor: int) -> Iterator[Run]:
    start = 0
    for cells, style in runs:
        at = cursor - start
        start += len(cells)
        if not 0 <= at < len(cells):
            yield cells, style
            continue
        if cells[at] == "" and at:
            at -= 1  # the right half of a wide character
        end = at + (2 if cells[at + 1 : at + 2] == [""] else 1)
        inverted = style + (_NOT_REVERSED if style.reverse else _REVERSED)
        yield from (
            part for part in ((cells[:at], style), (cells[at:end], inverted), (cells[end:], style)) if part[0]
        )
