"""Sends only cells that changed: over SSH a repainted but unchanged line costs nothing.

The one place that leans on Textual's private compositor. When its shape is not what we know, or working out
a difference fails, it switches itself off, says so once in Textual's log, has the screen painted whole, and
Textual writes as it always does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from textual.app import App, ReturnType
from textual.screen import Screen
from textual.strip import Strip

try:
    from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
except ImportError:  # pragma: no cover - another Textual
    SUPPORTED = False
else:
    SUPPORTED = hasattr(App, "_display") and all(
        hasattr(kind, "render_segments") for kind in (ChopsUpdate, LayoutUpdate)
    )

Cell = tuple[str, str, str | None]
"""Text of one screen cell ('' for the right half of a wide character), its SGR codes, its link."""
_SURPRISES = (AttributeError, TypeError, ValueError, LookupError)
"""What another shape of Textual's data leads to."""
_UNKNOWN: Cell = ("\0", "", None)
_NEAR = 8
"""Unchanged cells between two changes that are cheaper to send than another cursor movement."""


class Grid:
    """What the terminal shows, as far as we wrote it."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._rows: list[list[Cell]] = []
        self.forget()

    def forget(self) -> None:
        """Nothing is known of the terminal: everything is sent again."""
        self._rows = [[_UNKNOWN] * self.width for _ in range(self.height)]

    def write(self, x: int, y: int, strip: Strip, colors: ColorSystem | None) -> str:
        """What to send so that ``strip`` stands at a place."""
        if not 0 <= y < self.height or x >= self.width:
            return ""
        cells = _cells(strip, colors)[: self.width - x]
        row = self._rows[y]
        old = row[x : x + len(cells)]
        if old == cells:
            return ""
        row[x : x + len(cells)] = cells
        if any(len(text) > 1 for text, _, _ in cells):
            spans: Iterable[tuple[int, int]] = [(0, len(cells))]  # widths of clusters are a matter of taste
        else:
            spans = _changed(old, cells)
        return "".join(f"\x1b[{y + 1};{x + a + 1}H{_rendered(cells[a:b])}" for a, b in spans)


def _cells(strip: Strip, colors: ColorSystem | None) -> list[Cell]:
    cells: list[Cell] = []
    for text, style, control in strip._segments:
        if control or not text:
            continue
        codes = "" if style is None or colors is None else style._ansi or style._make_ansi_codes(colors)
        link = f"id={style.link_id};{style.link}" if style is not None and style.link else None
        if text.isascii():
            cells += [(character, codes, link) for character in text]
        else:
            for character in text:
                _add(cells, character, codes, link)
    return cells


def _add(cells: list[Cell], character: str, codes: str, link: str | None) -> None:
    """One more character: it takes one cell, or two, or none (then it goes with the one before)."""
    width = cell_len(character)
    if width:
        cells.append((character, codes, link))
        cells += [("", codes, link)] * (width - 1)
        return
    at = len(cells) - 1
    while at > 0 and not cells[at][0]:
        at -= 1
    if at >= 0:
        text, its_codes, its_link = cells[at]
        cells[at] = (text + character, its_codes, its_link)


def _changed(old: list[Cell], new: list[Cell]) -> Iterator[tuple[int, int]]:
    """Runs of cells to send, with near ones joined; a wide character is never cut."""
    start = end = -1
    for at, (before, after) in enumerate(zip(old, new, strict=True)):
        if before == after:
            continue
        if start >= 0 and at - end > _NEAR:
            yield _whole(new, start, end)
            start = -1
        if start < 0:
            start = at
        end = at + 1
    if start >= 0:
        yield _whole(new, start, end)


def _whole(cells: list[Cell], start: int, end: int) -> tuple[int, int]:
    while start > 0 and not cells[start][0]:
        start -= 1
    while end < len(cells) and not cells[end][0]:
        end += 1
    return start, end


def _rendered(cells: list[Cell]) -> str:
    parts: list[str] = []
    for (codes, link), run in groupby(cells, key=lambda cell: cell[1:]):
        text = "".join(cell[0] for cell in run)
        text = f"\x1b[{codes}m{text}\x1b[0m" if codes else text
        parts.append(f"\x1b]8;{link}\x1b\\{text}\x1b]8;;\x1b\\" if link else text)
    return "".join(parts)


def placed(update: object) -> Iterator[tuple[int, int, Strip]]:
    """The strips of a compositor update with their places (x, y), cut as Textual cuts them."""
    if isinstance(update, LayoutUpdate):
        for y, line in enumerate(update.strips, update.region.y):
            x = update.region.x
            for strip in line:
                yield x, y, strip
                x += strip.cell_length
    elif isinstance(update, ChopsUpdate):
        for y, x1, x2 in update.spans:
            for end, (x, found) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
                if found is None or x > x2 or end <= x1:
                    continue
                whole = x2 > x >= x1 and end <= x2
                yield x, y, found if whole else found.crop(0, min(end, x2) - x)


class _Diffed(CompositorUpdate):
    """A compositor update that sends only what differs from the grid."""

    def __init__(self, update: CompositorUpdate, grid: Grid, failed: Callable[[Exception], None]) -> None:
        self._update = update
        self._grid = grid
        self._failed = failed

    def render_segments(self, console: Console) -> str:
        colors = console._color_system or ColorSystem.TRUECOLOR
        try:
            return "".join(self._grid.write(x, y, strip, colors) for x, y, strip in placed(self._update))
        except _SURPRISES as error:
            self._failed(error)
            return self._update.render_segments(console)

    def __rich_console__(self, *_: Any) -> Iterator[Segment]:
        yield Segment("")


class DiffedApp(App[ReturnType]):
    """An App that writes differences. ``forget_frame`` after anything else has written to the terminal."""

    _grid: Grid | None = None
    diffing = SUPPORTED

    def forget_frame(self) -> None:
        """The next frame is sent whole."""
        self._grid = None

    def _give_up(self, error: Exception) -> None:
        self.diffing, self._grid = False, None
        self.log.error(f"the frame differ gives up: {error!r}")
        self.call_later(self.screen.refresh)

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        if self.diffing and isinstance(renderable, (ChopsUpdate, LayoutUpdate)) and not self._batch_count:
            width, height = self.size
            if self._grid is None or (self._grid.width, self._grid.height) != (width, height):
                self._grid = Grid(width, height)
            renderable = _Diffed(renderable, self._grid, self._give_up)
        super()._display(screen, renderable)
