"""A keyed table of any length: draws only visible rows, repaints only rows that changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.binding import BindingType
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.worker import Worker

from tui.actions import Scope, bindings
from tui.columns import Column, wanted, widths
from tui.messages import Chosen, Highlighted
from tui.plain import fit
from tui.rows import Rows
from tui.widgets.tones import Drawn

Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")
_GAP = 2
_GUTTER = 2
_HEADER = 1
_MANY = 4000
_TURN = 0.008
"""Seconds that arranging very many rows may take before other things have their turn."""
_Signature = tuple[object, ...]


class Table(Drawn, ScrollView, Generic[Key, Row], can_focus=True, inherit_bindings=False):
    """Shows ``rows``; every change of them goes through here. ``empty`` says what to press."""

    SCOPES: ClassVar[frozenset[Scope]] = frozenset({Scope.TABLE})
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.TABLE)]

    def __init__(self, rows: Rows[Key, Row], *, id: str, empty: Callable[[], str]) -> None:
        super().__init__(id=id)
        self.rows = rows
        self._empty = empty
        self._painted: list[_Signature] = []
        self._strips: dict[_Signature, Strip] = {}
        self._said: Key | None = None
        self._arranging: Worker[None] | None = None
        self._remembering: Worker[None] | None = None
        self._needed: dict[str, int] = {}  # column → width of its longest text so far
        self._sized: tuple[int, list[tuple[Column[Row], int]]] = (-1, [])

    # what others do to it

    def load(self, rows: Iterable[Row]) -> None:
        """Replace all rows."""
        anchor = self._anchor()
        self.rows.load(rows)
        self._settle(anchor)

    def sync(self, rows: Mapping[Key, Row]) -> None:
        """Show these rows; cheap when most of them are here already."""
        anchor = self._anchor()
        self.rows.sync(rows)
        self._settle(anchor)

    def update_rows(self, changed: Mapping[Key, Row | None]) -> None:
        """Apply changed and vanished (None) rows: nothing that the eye rests on moves."""
        anchor = self._anchor()
        if self.rows.update(changed):
            self._settle(anchor)
        else:
            self.repaint()

    def filter_rows(self, test: Callable[[Row], bool] | None) -> None:
        self.rows.filter(test)
        self._settle(None)

    def get_ready(self, text: Callable[[Row], str]) -> None:
        """Somebody is about to type a filter: make the texts that it looks at, if there are very many."""
        if len(self.rows.all) > _MANY:
            remember = partial(self._remember, self.rows.remembered(text))
            self._remembering = self.run_worker(remember, group="remember", exclusive=True)

    async def _remember(self, text: Callable[[Row], str]) -> None:
        rows = list(self.rows.all.values())
        for start in range(0, len(rows), _MANY):
            for row in rows[start : start + _MANY]:
                text(row)
            await asyncio.sleep(0)

    async def _arrange(self) -> None:
        """Go on with an arrangement that takes long, a little in each turn of the event loop."""
        done = False
        while not done:
            await asyncio.sleep(0)
            anchor = self._anchor()
            done = self.rows.arrange(_TURN)
        self._settle(anchor)
        self._announce(always=True)

    def go_to(self, key: Key) -> None:
        if (index := self.rows.index(key)) is not None:
            self._move_to(index)

    def tick(self) -> None:
        """Repaint rows whose text depends on the clock."""
        self.repaint()

    # drawing

    @property
    def page(self) -> int:
        """Rows that fit."""
        return max(1, self.scrollable_content_region.height - _HEADER)

    @property
    def first(self) -> int:
        return round(self.scroll_y)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if y == 0:
            return self._header(width)
        signature = self._signature(y)
        while len(self._painted) <= y:
            self._painted.append(())
        self._painted[y] = signature
        if not signature:
            return self._blank(y, width)
        key = (*signature, width, self.has_focus, self.app.theme)
        strip = self._strips.get(key)
        if strip is None:
            if len(self._strips) > 1000:
                self._strips.clear()
            strip = self._strips[key] = self._line(self.first + y - _HEADER, width)
        return strip

    def _signature(self, y: int) -> _Signature:
        index = self.first + y - _HEADER
        if index >= len(self.rows):
            return ()
        key = self.rows.key_at(index)
        row = self.rows.all[key]
        ticking = tuple(column.text(row) for column in self.rows.columns.values() if column.ticks)
        return key, self.rows.versions[key], key == self.rows.cursor, key in self.rows.marks, ticking

    def _columns(self, width: int) -> list[tuple[Column[Row], int]]:
        if self._sized[0] != width:
            columns = self.rows.columns.values()
            self._sized = (width, widths(columns, width - _GUTTER, self._needed, _GAP))
        return self._sized[1]

    def _resized(self) -> bool:
        """After a new measure: True when columns became wider and everything is drawn again."""
        width, old = self._sized
        self._sized = (-1, [])
        if width < 0 or self._columns(width) == old:
            return False
        self._strips.clear()
        self.refresh()
        return True

    def _measure(self, index: int) -> bool:
        """Take the texts of a row into account; True when one is longer than all before."""
        if index >= len(self.rows):
            return False
        row, grown = self.rows.row_at(index), False
        for column in self.rows.columns.values():
            if column.elastic and (cells := wanted(cell_len(column.text(row)))) > self._needed.get(
                column.id, 0
            ):
                self._needed[column.id], grown = cells, True
        return grown

    def _header(self, width: int) -> Strip:
        style = self.rich_style + self.tone("title")
        parts = [Segment(" " * _GUTTER, style)]
        for column, cells in self._columns(width):
            title = column.title
            if column.id == self.rows.sort:
                arrow = "↓" if self.rows.reverse else "↑"
                title = f"{arrow}{title}" if column.right else f"{title}{arrow}"
            tone = style + self.tone("accent") if column.id == self.rows.sort else style
            parts.append(Segment(fit(title, cells, right=column.right) + " " * _GAP, tone))
        return Strip(parts).adjust_cell_length(width, style)

    def _line(self, index: int, width: int) -> Strip:
        if self._measure(index):  # the mouse wheel brought it into sight
            self.call_later(self._resized)
        key = self.rows.key_at(index)
        row = self.rows.all[key]
        base = self.rich_style
        _, ground = self.background_colors
        here, marked = key == self.rows.cursor, key in self.rows.marks
        if here:
            base += self.tone("cursor" if self.has_focus else "mark", ground)
        parts = [
            Segment("▌" if here else " ", base + self.tone("accent", ground)),
            Segment("◆" if marked else " ", base + self.tone("warn", ground)),
        ]
        for column, cells in self._columns(width):
            text = fit(column.text(row), cells, right=column.right) + " " * _GAP
            parts.append(Segment(text, base + self.tone(column.tone(row), ground)))
        return Strip(parts).adjust_cell_length(width, base)

    def _blank(self, y: int, width: int) -> Strip:
        if len(self.rows) or y != 2:
            return Strip.blank(width, self.rich_style)
        return self.strip([("  " + self._empty(), "muted")], width)

    # what keeps it still

    def _anchor(self) -> tuple[Key, int] | None:
        """A row and its place on the screen that must not move; none at the top, where news appears."""
        if self.first == 0 or not len(self.rows):
            return None
        index = self.rows.index(self.rows.cursor)
        if index is None or not self.first <= index < self.first + self.page:
            index = min(self.first, len(self.rows) - 1)
        return self.rows.key_at(index), index - self.first

    def _settle(self, anchor: tuple[Key, int] | None) -> None:
        """After a change of order: sizes, scroll position, cursor in sight, repaint."""
        if self.rows.arranging:
            self._arranging = self.run_worker(self._arrange, group="arrange", exclusive=True)
            return
        self.virtual_size = Size(0, len(self.rows) + _HEADER)
        if anchor is not None and (index := self.rows.index(anchor[0])) is not None:
            self._scroll(index - anchor[1])
        self._show_cursor()
        self.repaint()
        self._announce()

    def _scroll(self, first: int) -> None:
        most = max(0, len(self.rows) - self.page)
        self.scroll_to(y=max(0, min(first, most)), animate=False, force=True)

    def _show_cursor(self) -> None:
        index = self.rows.index(self.rows.cursor)
        if index is None:
            return
        if index < self.first:
            self._scroll(index)
        elif index >= self.first + self.page:
            self._scroll(index - self.page + 1)
        elif self.first > max(0, len(self.rows) - self.page):
            self._scroll(self.first)

    def repaint(self) -> None:
        """Refresh the lines that look different from what was painted last."""
        region = self.scrollable_content_region
        changed = [
            y
            for y in range(1, region.height)
            if y >= len(self._painted)
            or self._painted[y] != self._signature(y)
            or (y == 2 and not len(self.rows))
        ]
        longer = [y for y in changed if self._measure(self.first + y - _HEADER)]
        if longer and self._resized():
            return
        for y in changed:
            self.refresh(Region(0, y, region.width, 1))

    def _announce(self, *, always: bool = False) -> None:
        if self.rows.cursor != self._said or always:
            self._said = self.rows.cursor
            self.post_message(Highlighted(self.id or "", self.rows.cursor))

    def _move_to(self, index: int) -> None:
        self.rows.move_to(index)
        self._show_cursor()
        self.repaint()
        self._announce()

    def _move(self, rows: int) -> None:
        self._move_to((self.rows.index(self.rows.cursor) or 0) + rows)

    def on_resize(self) -> None:
        self._painted.clear()
        self._show_cursor()

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    async def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            self._sort_at(event.x)
        elif self.first + event.y - _HEADER < len(self.rows):
            self._move_to(self.first + event.y - _HEADER)
            if event.chain > 1:
                self.action_choose()

    def _sort_at(self, x: int) -> None:
        at = _GUTTER
        for column, cells in self._columns(self.scrollable_content_region.width):
            if at <= x < at + cells + _GAP:
                again = column.id == self.rows.sort
                self._sort(column.id, reverse=not self.rows.reverse if again else None)
            at += cells + _GAP

    def _sort(self, column: str, *, reverse: bool | None = None) -> None:
        self.rows.sort_by(column, reverse=reverse)
        self._settle(None)
        self.refresh()

    # actions

    def action_choose(self) -> None:
        if (key := self.rows.cursor) is not None and self.rows.current is not None:
            self.post_message(Chosen(self.id or "", key))

    def action_down(self) -> None:
        self._move(1)

    def action_up(self) -> None:
        self._move(-1)

    def action_top(self) -> None:
        self._move_to(0)

    def action_bottom(self) -> None:
        self._move_to(len(self.rows) - 1)

    def action_page_down(self) -> None:
        self._move(max(1, self.page // 2))

    def action_page_up(self) -> None:
        self._move(-max(1, self.page // 2))

    def action_mark(self) -> None:
        self.rows.toggle_mark()
        self._move(1)
        self._announce(always=True)

    def action_range(self) -> None:
        self.rows.toggle_range()
        self.repaint()
        self._announce(always=True)

    def action_mark_all(self) -> None:
        self.rows.toggle_all()
        self.repaint()
        self._announce(always=True)

    def action_sort_left(self) -> None:
        self._sort_next(-1)

    def action_sort_right(self) -> None:
        self._sort_next(1)

    def _sort_next(self, step: int) -> None:
        shown = [column.id for column, _ in self._columns(self.scrollable_content_region.width)]
        place = shown.index(self.rows.sort) if self.rows.sort in shown else 0
        self._sort(shown[(place + step) % len(shown)])

    def action_reverse(self) -> None:
        self._sort(self.rows.sort, reverse=not self.rows.reverse)


AnyTable = Table[Any, Any]
