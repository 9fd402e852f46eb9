"""A view on one log stream: draws the lines in sight, follows the end, searches; a reader fills it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import ClassVar

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.strip import Strip
from textual.worker import Worker

from hakuriver.errors import HakuRiverError, UsageError
from hakuriver.units import format_size
from tui.actions import Scope, bindings
from tui.ansi import highlighted, spans, style_after, visible
from tui.log_buffer import Line
from tui.log_reader import LogReader, pattern
from tui.messages import LogMoved, SearchAsked
from tui.remote import Remote
from tui.widgets.tones import Drawn, Piece, differing

_PLAIN = Style.null()
_Place = tuple[int, int]
"""Index of a line in the buffer, and the row inside it (when it is wrapped)."""


class LogView(Drawn, can_focus=True, inherit_bindings=False):
    """``show`` a task's stream in it. The position is kept as a byte of the stream."""

    SCOPES: ClassVar[frozenset[Scope]] = frozenset({Scope.LOG})
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.LOG)]

    def __init__(self, remote: Remote, *, id: str) -> None:
        super().__init__(id=id)
        self.following = True
        self.wrapped = False
        self.stream_name = self._chosen = "stdout"
        self.shown: tuple[int, int] | None = None  # task, attempt
        self.reader: LogReader | None = None
        self.note = ""
        self.excuse: Piece = ("", "")  # why there is nothing to read
        self._both_empty = False
        self._remote = remote
        self._reading: Worker[None] | None = None
        self._fetching: Worker[None] | None = None
        self._at = 0
        self._row = 0
        self._indent = 0
        self._wanted: re.Pattern[bytes] | None = None
        self._lines: list[Strip] = []
        self._laid_out: dict[tuple[object, ...], list[Strip]] = {}

    # what it shows

    def show(self, task: int | None, attempt: int = 1, stream: str | None = None) -> None:
        """Read this attempt of a task from now on; None empties the view."""
        wanted = None if task is None else (task, attempt)
        if wanted == self.shown and stream in (None, self.stream_name):
            return
        self._both_empty = False
        stream = stream or self._chosen
        self.stop()
        self.shown, self.stream_name, self.reader = wanted, stream, None
        self._at = self._row = self._indent = 0
        self.note = ""
        self._laid_out.clear()
        self.start()
        self.redraw()

    def start(self) -> None:
        """Read on, from where ``stop`` left it."""
        if self.shown is None or self._reading is not None:
            return
        if self.reader is None:
            task, attempt = self.shown
            read = partial(self._remote.read_log, task, self.stream_name, attempt=attempt)
            self.reader = LogReader(read, self._has_read)
        self._reading = self.run_worker(self.reader.run(), group="log")

    def stop(self) -> None:
        """Read no more; what is here stays, and so does the place. Hidden views are stopped."""
        for worker in (self._reading, self._fetching):
            if worker is not None:
                worker.cancel()
        self._reading = self._fetching = None

    def _has_read(self) -> None:
        assert self.reader is not None and self.shown is not None
        buffer = self.reader.buffer
        if buffer.loaded and buffer.ended and not buffer.size:
            if self.stream_name == self._chosen == "stdout":
                self.show(*self.shown, stream="stderr")  # what a failed command says is there
                return
            self._both_empty = self._chosen == "stdout"
        self.redraw()

    @property
    def reading(self) -> bool:
        return self._reading is not None

    def on_unmount(self) -> None:
        self.stop()

    # drawing

    def redraw(self) -> None:
        """Lay the visible lines out again and repaint those that differ."""
        new = self._layout_lines(self.size.width, self.size.height)
        old, self._lines = self._lines, new
        if regions := differing(old, new, self.size.width):
            self.refresh(*regions)
        self.post_message(LogMoved(self.id or ""))

    def render_line(self, y: int) -> Strip:
        return self._lines[y] if y < len(self._lines) else Strip.blank(self.size.width, self.rich_style)

    def on_resize(self) -> None:
        self._laid_out.clear()
        self._lines = []
        self.redraw()

    def _layout_lines(self, width: int, height: int) -> list[Strip]:
        if self.reader is None or width <= 0 or height <= 0:
            return []
        lines = self.reader.buffer.lines
        if not lines:
            return [Strip.blank(width, self.rich_style), self.strip([self._nothing()], width)]
        if self.following:
            index, row = self._up_from((len(lines), 0), height)
            self._at, self._row = lines[index].offset, row
        else:
            index, row = self._place()
        found: list[Strip] = []
        style = self.reader.buffer.style_at(index)
        while index < len(lines) and len(found) < height:
            found += self._rows_of(lines[index], width, style)[row:]
            style = style_after(lines[index].data, style)
            index, row = index + 1, 0
        return [*found[:height], *[Strip.blank(width, self.rich_style)] * (height - len(found))]

    def _nothing(self) -> Piece:
        """What stands where there is no output: why, as far as anybody knows."""
        assert self.reader is not None
        excuse, tone = self.excuse
        if self.reader.trouble and not excuse:
            return f"  {self.reader.trouble}", "warn"
        if excuse:
            return f"  {excuse}", tone
        if not self.reader.buffer.loaded:
            return "  reading…", "muted"
        if self._both_empty:
            return "  it wrote nothing to stdout or stderr", "muted"
        if self.reader.buffer.ended:
            return f"  {self.stream_name} is empty", "muted"
        return f"  nothing on {self.stream_name} yet", "muted"

    def _rows_of(self, line: Line, width: int, style: Style = _PLAIN) -> list[Strip]:
        """The rows of a line that begins in a style; how many they are doesn't depend on that."""
        key = (line.offset, line.end, line.data[-64:], width, self.wrapped, self._indent, self._wanted, style)
        rows = self._laid_out.get(key)
        if rows is None:
            if len(self._laid_out) > 2000:
                self._laid_out.clear()
            rows = self._laid_out[key] = self._draw(line, width, style)
        return rows

    def _draw(self, line: Line, width: int, style: Style) -> list[Strip]:
        base = self.rich_style
        parts = spans(visible(line.data), style)
        if self._wanted is not None:
            parts = highlighted(parts, self._wanted, self.tone("mark") + Style(bold=True, reverse=True))
        segments = [Segment(part, base + style) for part, style in parts]
        whole = Strip(segments)
        if not self.wrapped:
            return [whole.crop(self._indent, self._indent + width).adjust_cell_length(width, base)]
        if whole.cell_length <= width:
            return [whole.adjust_cell_length(width, base)]
        rows, at = [], 0
        for piece in chop_cells(whole.text, width):
            cells = cell_len(piece)
            rows.append(whole.crop(at, at + cells).adjust_cell_length(width, base))
            at += cells
        return rows

    # position

    def _place(self) -> _Place:
        assert self.reader is not None
        return self.reader.buffer.index(self._at), self._row

    def _up_from(self, place: _Place, rows: int) -> _Place:
        """The place ``rows`` screen rows above another."""
        assert self.reader is not None
        (index, row), lines = place, self.reader.buffer.lines
        while rows > row and index > 0:
            rows -= row
            index -= 1
            row = len(self._rows_of(lines[index], self.size.width))
        return index, max(0, row - rows)

    def _down_from(self, place: _Place, rows: int) -> _Place:
        assert self.reader is not None
        (index, row), lines = place, self.reader.buffer.lines
        row += rows
        while index < len(lines) - 1 and row >= (height := len(self._rows_of(lines[index], self.size.width))):
            row -= height
            index += 1
        return index, row if index < len(lines) - 1 else 0

    def _move(self, rows: int) -> None:
        if self.reader is None or not self.reader.buffer.lines:
            return
        self.following = False
        buffer = self.reader.buffer
        place = self._up_from(self._place(), -rows) if rows < 0 else self._down_from(self._place(), rows)
        last = self._up_from((len(buffer.lines), 0), self.size.height)
        if place >= last:
            place = last
            if rows > 0 and not buffer.at_end:
                self._fetch("later")
            elif rows > 0:
                self.following = True
        if place[0] < self.size.height and rows < 0 and not buffer.at_start:
            self._fetch("earlier")
        self._at, self._row = buffer.lines[place[0]].offset, place[1]
        self.redraw()

    def _fetch(self, what: str, offset: int = 0) -> None:
        """One errand of the reader at a time; another while it runs is dropped."""
        if self.reader is None or (self._fetching is not None and self._fetching.is_running):
            return
        errands: dict[str, Callable[[], Awaitable[None]]] = {
            "earlier": self.reader.earlier,
            "later": self.reader.later,
            "end": self.reader.to_end,
            "offset": partial(self.reader.to_offset, offset),
        }
        self._fetching = self.run_worker(partial(self._errand, errands[what]), group="log-errand")

    async def _errand(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except HakuRiverError as error:
            self.note = error.message
        self.redraw()

    async def _find(self, reader: LogReader, *, back: bool) -> None:
        assert self._wanted is not None
        index = self._place()[0] if reader.buffer.lines else 0
        self.note = "searching…"
        offset = await reader.find(self._wanted, index, back=back)
        if offset is None:
            self.note = "no match " + ("before here" if back else "after here")
            return
        self.note = ""
        self.following = False
        if not reader.buffer.start <= offset < reader.buffer.end:
            await reader.to_offset(offset)
        self._at, self._row = offset, 0

    def search(self, written: str) -> None:
        """Look for text or ``/regex/`` from here on; nothing written ends the search."""
        try:
            self._wanted = pattern(written) if written else None
        except UsageError as error:
            self.note = error.message
        self.note = "" if not written else self.note
        self._lines = []
        if self._wanted is not None:
            self._search(back=False)
        self.redraw()

    def end_search(self) -> bool:
        """Forget what is searched; False when nothing is."""
        if self._wanted is None:
            return False
        self.search("")
        return True

    def _search(self, *, back: bool) -> None:
        if self._wanted is None or self.reader is None:
            self.note = "nothing searched yet: / does"
            self.redraw()
            return
        if self._fetching is not None and self._fetching.is_running:
            self._fetching.cancel()
        self._fetching = self.run_worker(
            partial(self._errand, partial(self._find, self.reader, back=back)), group="log-errand"
        )

    @property
    def title(self) -> str:
        """What is in sight, in a few words."""
        if self.reader is None:
            return ""
        buffer = self.reader.buffer
        if self.reader.trouble:
            return self.reader.trouble
        size = f"{buffer.size} B" if buffer.size < 1000 else format_size(buffer.size)
        place = "following" if self.following and buffer.size and not buffer.ended else ""
        if not self.following and buffer.size:
            place = f"{min(100, self._at * 100 // max(1, buffer.size))}% of {size}"
        elif buffer.size:
            place = f"{place} {size}".strip()
        return " · ".join(
            filter(None, (place, "wrap" if self.wrapped else "", self.reader.progress or self.note))
        )

    async def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._move(-3)
        event.stop()

    async def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._move(3)
        event.stop()

    # actions

    def action_log_down(self) -> None:
        self._move(1)

    def action_log_up(self) -> None:
        self._move(-1)

    def action_log_page_down(self) -> None:
        self._move(max(1, self.size.height // 2))

    def action_log_page_up(self) -> None:
        self._move(-max(1, self.size.height // 2))

    def action_log_top(self) -> None:
        self.following = False
        self._at = self._row = 0
        if self.reader is not None and not self.reader.buffer.at_start:
            self._fetch("offset", 0)
        self.redraw()

    def action_log_bottom(self) -> None:
        self.following = True
        if self.reader is not None and not self.reader.buffer.at_end:
            self._fetch("end")
        self.redraw()

    def action_follow(self) -> None:
        if self.following:
            self.following = False
            self.redraw()
        else:
            self.action_log_bottom()

    def action_wrap(self) -> None:
        self.wrapped = not self.wrapped
        self._row = self._indent = 0
        self.redraw()

    def action_log_left(self) -> None:
        self._indent = max(0, self._indent - 8)
        self.redraw()

    def action_log_right(self) -> None:
        self._indent += 0 if self.wrapped else 8
        self.redraw()

    def action_stream(self) -> None:
        if self.shown is not None:
            self.following = True
            self._chosen = "stderr" if self.stream_name == "stdout" else "stdout"
            self.show(*self.shown, stream=self._chosen)

    def action_log_search(self) -> None:
        self.post_message(SearchAsked(self.id or ""))

    def action_search_next(self) -> None:
        self._search(back=False)

    def action_search_previous(self) -> None:
        self._search(back=True)

    def action_pager(self) -> None:
        if self.reader is not None and not (self._fetching and self._fetching.is_running):
            self._fetching = self.run_worker(
                partial(self._errand, partial(self._page, self.reader)), group="log-errand"
            )

    async def _page(self, reader: LogReader) -> None:
        from tui import pager

        self.note = await pager.page(self.app, reader, self._remote.off_loop, at_end=self.following)

    def action_log_copy(self) -> None:
        lines = (strip.text.rstrip() for strip in self._lines)
        self.app.copy_to_clipboard("\n".join(lines).rstrip("\n"))
