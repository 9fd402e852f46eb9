"""The target picker: the cluster as a matrix of places, bound both ways to the text of the targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import BindingType
from textual.strip import Strip

from hakuriver.views import NodeView
from tui import matrix, targets
from tui.actions import Scope, bindings
from tui.facts import node_symbol
from tui.gpus import Whose
from tui.matrix import Row
from tui.messages import Picked
from tui.plain import clean, fit
from tui.widgets.tones import Drawn, Piece, differing

_HEAD = 5
"""Cells for the cursor's mark, the tick and the node's state."""
_CORES, _MEMORY = 8, 6
_MOST_CELL, _GOOD_CELL, _LEAST_CELL = 8, 6, 5
_AROUND = 2
"""Lines that are no places: the header and the words below."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Widths in cells, and the GPU columns that fit: those around the cursor."""

    name: int
    cores: int
    memory: int
    cell: int
    columns: list[int]


class TargetPicker(Drawn, can_focus=True, inherit_bindings=False):
    """``show`` what is typed; every tick is answered with ``Picked``. Its height is its own affair."""

    SCOPES: ClassVar[frozenset[Scope]] = frozenset({Scope.PICKER})
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.PICKER)]

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.words: targets.Words = ()
        self.count = 0
        self.at: tuple[str, int | None] = ("", None)
        self.column: int | None = None  # of the cursor: a GPU's number, or none: the line itself
        self._rows: list[Row] = matrix.rows_of(())
        self._columns: list[int] = []
        self._whose: Whose = lambda _: None
        self._most = 10
        self._lines: list[Strip] = []

    def show(self, nodes: Iterable[NodeView], whose: Whose, *, most: int) -> None:
        """The cluster as it is now, in at most so many lines."""
        self._rows, self._whose, self._most = matrix.rows_of(nodes), whose, most
        self._columns = matrix.columns_of(self._rows)
        if self.at not in (row.key for row in self._rows):
            self.at, self.column = ("", None), None
        self.redraw()

    def take(self, text: str, count: int) -> None:
        """What stands in the fields: targets, and how many GPUs anywhere."""
        words = targets.read(text)
        if (words, count) != (self.words, self.count):
            self.words, self.count = words, count
            self.redraw()

    # drawing

    def redraw(self) -> None:
        """Lay everything out; only lines that differ are painted."""
        width = self.size.width
        if width <= 0:
            return
        old, self._lines = self._lines, self._layout_lines(width)
        self.styles.height = len(self._lines)
        if regions := differing(old, self._lines, width):
            self.refresh(*regions)

    def on_resize(self) -> None:
        self._lines = []
        self.redraw()

    def on_focus(self) -> None:
        self.redraw()

    def on_blur(self) -> None:
        self.redraw()

    def render_line(self, y: int) -> Strip:
        return self._lines[y] if y < len(self._lines) else Strip.blank(self.size.width, self.rich_style)

    def _layout_lines(self, width: int) -> list[Strip]:
        room = max(1, self._most - _AROUND)
        place = self._place
        first = max(0, min(place - room // 2, len(self._rows) - room))
        shown = self._rows[first : first + room]
        sizes = self._sizes(width)
        lines = [self._header(sizes, more=len(shown) < len(self._rows))]
        lines += [self._line(row, sizes) for row in shown]
        lines.append([(fit(f"  {self._words_below()}", width), "muted")])
        return [self.strip(line, width) for line in lines]

    def _words_below(self) -> str:
        """About the place under the cursor."""
        column = self.column
        if self._row.node is None and column is not None:
            column = self._number(column)
        return matrix.describe(self._row, column, self._rows, self._whose)

    def _sizes(self, width: int) -> _Sizes:
        """GPU columns are wide enough for task numbers; what is left out goes first: memory, then cores."""
        name = min(16, max((len(self._label(row)) for row in self._rows), default=8) + 1)
        room, count = width - _HEAD - name, max(1, len(self._columns))
        cores, memory = _CORES, _MEMORY
        if (room - cores - memory) // count < _GOOD_CELL:
            memory = 0
        if (room - cores - memory) // count < _LEAST_CELL:
            cores = 0
        cell = min(_MOST_CELL, max(_LEAST_CELL, (room - cores - memory) // count))
        fitting = max(1, (room - cores - memory) // cell)
        at = self._columns.index(self.column) if self.column in self._columns else 0
        first = max(0, min(at - fitting // 2, len(self._columns) - fitting))
        return _Sizes(name, cores, memory, cell, self._columns[first : first + fitting])

    def _header(self, sizes: _Sizes, *, more: bool) -> list[Piece]:
        text = " " * _HEAD + fit("NODE ↕" if more else "NODE", sizes.name)
        text += fit("CORES ", sizes.cores, right=True) + fit("MEM ", sizes.memory, right=True)
        for column in sizes.columns:
            cut = column == sizes.columns[0] != self._columns[0]
            name = f"gpu{column}" if sizes.cell >= _GOOD_CELL else str(column)
            text += fit(f"{'‹' if cut else ''}{name}", sizes.cell - 1) + " "
        return [(text + ("›" if sizes.columns[-1:] != self._columns[-1:] else ""), "title")]

    @staticmethod
    def _label(row: Row) -> str:
        if row.node is None:
            return "anywhere"
        return f" numa {row.numa['id']}" if row.numa is not None else clean(row.node["name"])

    def _line(self, row: Row, sizes: _Sizes) -> list[Piece]:
        here = row.key == self.at and self.has_focus
        sign, colour = node_symbol(row.node) if row.node and row.numa is None else (" ", "")
        tick = matrix.ticked_row(row, self.words)
        free, size = matrix.capacity(row)
        on_head = here and self.column is None
        plain = colour if colour in ("warn", "bad") else "title" if row.numa is None else ""
        pieces: list[Piece] = [
            ("▌" if here else " ", "accent"),
            (fit(tick, 2), "accent"),
            (f"{sign} ", colour),
            (fit(self._label(row), sizes.name), "cursor" if on_head else "accent" if tick else plain),
            (fit(f"{free} ", sizes.cores, right=True), "muted"),
            (fit(f"{size} ", sizes.memory, right=True), "muted"),
        ]
        for column in sizes.columns:
            shown = self._cell(row, column)
            if shown is None:
                pieces.append((" " * sizes.cell, ""))
                continue
            text, tone = shown
            under = here and self.column == column
            pieces += [(fit(text, sizes.cell - 1), "cursor" if under else tone), (" ", "")]
        return pieces

    def _cell(self, row: Row, column: int) -> tuple[str, str] | None:
        if row.node is not None:
            return matrix.cell(row, column, self.words, self.count)
        number = self._number(column)
        if number > matrix.most_gpus(self._rows):
            return None
        return matrix.cell(row, number, self.words, self.count)

    def _number(self, column: int) -> int:
        """How many GPUs a column of *anywhere* stands for."""
        return self._columns.index(column) + 1

    # moving

    @property
    def _place(self) -> int:
        return next((i for i, row in enumerate(self._rows) if row.key == self.at), 0)

    @property
    def _row(self) -> Row:
        return self._rows[self._place]

    def _stops(self, row: Row) -> list[int | None]:
        """Where the cursor can be in a line."""
        return [None, *(column for column in self._columns if self._cell(row, column) is not None)]

    def _move(self, lines: int) -> None:
        place = max(0, min(len(self._rows) - 1, self._place + lines))
        row = self._rows[place]
        self.at = row.key
        if self.column not in self._stops(row):
            self.column = None
        self.redraw()

    def _shift(self, step: int) -> None:
        stops = self._stops(self._row)
        at = stops.index(self.column) if self.column in stops else 0
        self.column = stops[max(0, min(len(stops) - 1, at + step))]
        self.redraw()

    def on_click(self, _: events.Click) -> None:
        self.focus()

    def action_picker_up(self) -> None:
        self._move(-1)

    def action_picker_down(self) -> None:
        self._move(1)

    def action_picker_left(self) -> None:
        self._shift(-1)

    def action_picker_right(self) -> None:
        self._shift(1)

    # picking

    def action_picker_tick(self) -> None:
        row, column = self._row, self.column
        if row.node is None:
            number = 0 if column is None else self._number(column)
            self._say(targets.without_targets(self.words), 0 if number == self.count else number)
            return
        name = row.node["name"]
        if column is not None and row.devices is not None and column in row.devices:
            gpu = row.devices[column]
            if not gpu["mig"]:
                self._say(targets.toggle_gpu(self.words, name, column, gpu["numa"]), 0)
        elif row.numa is not None:
            local = list(row.devices or ())
            self._say(targets.toggle_numa(self.words, name, row.numa["id"], local), self.count)
        else:
            self._say(targets.toggle_node(self.words, name), self.count)

    def action_picker_each(self) -> None:
        if (node := self._row.node) is not None:
            self._say(targets.toggle_each(self.words, node["name"]), self.count)

    def action_picker_anywhere(self) -> None:
        self.at, self.column = ("", None), None
        self._say(targets.without_targets(self.words), self.count)

    def _say(self, words: targets.Words, count: int) -> None:
        self.words, self.count = words, count
        self.redraw()
        self.post_message(Picked(targets.write(words), count))
