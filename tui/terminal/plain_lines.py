"""Many lines of plain text at once onto a bittty board: what ``yes`` or a build writes by the megabyte.

The outcome is that of writing them one by one, several times faster. It is taken only where nothing can make
a difference: text without escapes that fits the width, on a screen that scrolls as a whole.
"""

from __future__ import annotations

import re
from functools import lru_cache

from bittty import Board
from bittty.video import Line


@lru_cache(maxsize=8)
def _lines(width: int) -> re.Pattern[bytes]:
    return re.compile(rb"(?:[ -~]{0,%d}\r\n)*" % width)


def plain_until(data: bytes, start: int, width: int) -> int:
    """Where the whole plain lines end that begin at ``start``."""
    found = _lines(width).match(data, start)
    return start if found is None else found.end()


def is_open(board: Board) -> bool:
    """Whether the board is at the start of an empty bottom row, and what is written there is what is seen.

    The row came with the scroll before: it isn't empty where new rows get a background.
    """
    blitter, cursor, charset, parser = board.blitter, board.cursor, board.charset, board.parser
    page = blitter.current_page
    whole: bool = (
        page is blitter.main_page
        and (blitter.scroll_top, blitter.scroll_bottom) == (0, page.height - 1)
        and (blitter.left_margin, blitter.right_margin) == (0, page.width - 1)
        and not blitter.right_to_left
    )
    plain: bool = (
        charset.single_shift is None
        and charset.charset_array[charset.current_charset] == "B"
        and charset.charset_array[charset.gr] == "B"
    )
    idle: bool = parser.mode is None and not parser.buffer and not parser.vt52
    if not (whole and plain and idle and (cursor.x, cursor.y) == (0, page.height - 1) and page.height > 1):
        return False
    bottom = page.grid[-1]
    style, text = bottom[0]
    empty: bool = text == " " and style == type(style)() and bottom.count(bottom[0]) == page.width
    return empty


def write(board: Board, lines: list[str], most: int) -> list[Line]:
    """Write them, each with its line feed. Returns what goes off the top: the last ``most`` of it."""
    blitter, style = board.blitter, board.style.current
    page = blitter.current_page
    blank, kept = page.grid[-1][0], page.height - 1
    passing = lines[max(0, len(lines) - kept - most) : max(0, len(lines) - kept)]
    staying = lines[max(0, len(lines) - kept) :]
    gone = [page.line(y) for y in range(min(len(lines), kept))]
    gone += [Line(tuple([(style, character) for character in text])) for text in passing]
    new = [
        [(style, character) for character in text] + [blank] * (page.width - len(text)) for text in staying
    ]
    page.grid[:] = [*page.grid[len(new) : -1], *new, [blank] * page.width]
    page.wrapped_lines[:] = [*page.wrapped_lines[len(new) : -1], *[False] * (len(new) + 1)]
    single = Line(()).attribute
    page.line_attributes[:] = [*page.line_attributes[len(new) : -1], *[single] * (len(new) + 1)]
    page.page_gen = page.generation  # all of it is dirty
    blitter.reset_grapheme_state()
    blitter.last_printed_char = None
    return gone[-most:]
