"""Lists over the screen: what can be done here (help and palette are the same list), and what was done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.dom import DOMNode
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from tui.actions import Action, Scope, bindings
from tui.columns import Column
from tui.filters import Grammar
from tui.messages import Chosen
from tui.plain import clean
from tui.rows import Rows
from tui.session import Act
from tui.widgets.table import Table


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the help: an action, and the node that would run it."""

    number: int
    action: Action
    node: DOMNode


_ENTRY_COLUMNS: tuple[Column[Entry], ...] = (
    Column("keys", "KEY", 8, lambda e: e.action.shown_keys, lambda e: e.number, lambda _: "accent", most=16),
    Column("name", "ACTION", 15, lambda e: e.action.command, lambda e: e.action.command, most=16),
    Column("help", "WHAT IT DOES", 40, lambda e: e.action.help, lambda e: e.action.help, flex=1),
    Column(
        "scope",
        "WHERE",
        12,
        lambda e: str(e.action.scope),
        lambda e: str(e.action.scope),
        lambda _: "muted",
        drop=1,
    ),
)
_ENTRY_GRAMMAR = Grammar[Entry](
    {"where": lambda e: (str(e.action.scope),)},
    lambda e: f"{e.action.command} {e.action.label} {e.action.help} {e.action.shown_keys}".lower(),
)
_ACT_COLUMNS: tuple[Column[Act], ...] = (
    Column(
        "at",
        "TIME",
        8,
        lambda a: time.strftime("%H:%M:%S", time.localtime(a.at)),
        lambda a: a.number,
        descending=True,
    ),
    Column("line", "COMMAND LINE", 20, lambda a: clean(a.line), lambda a: a.line, flex=4),
    Column(
        "result",
        "RESULT",
        14,
        lambda a: clean(a.result),
        lambda a: a.result,
        lambda a: "bad" if a.ok is False else "muted",
        flex=1,
    ),
)


class _Filter(Input):
    """The line above the list; the arrows move the list."""


class ListScreen(ModalScreen[Entry | None]):
    """A titled list with a filter line; ``enter`` runs (or copies) the line under the cursor."""

    SCOPES: ClassVar[frozenset[Scope]] = frozenset({Scope.LIST})
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.LIST)]

    def __init__(self, title: str) -> None:
        super().__init__()
        self._heading = title

    def compose_list(self) -> ComposeResult:
        yield from ()

    def compose(self) -> ComposeResult:
        with Vertical(id="list"):
            yield Static(self._heading, id="list-title", markup=False)
            yield _Filter(compact=True, placeholder="type to filter", id="list-filter")
            yield from self.compose_list()

    @property
    def line(self) -> Input:
        return self.query_one("#list-filter", Input)

    def action_list_filter(self) -> None:
        self.line.focus()

    def action_close(self) -> None:
        self.dismiss(None)

    def on_chosen(self, _: Chosen) -> None:
        self.action_run()

    def action_run(self) -> None:
        """What enter does."""


class ActionList(ListScreen):
    """Help (the list has the focus) and palette (the filter line has)."""

    def __init__(self, found: Sequence[tuple[Action, DOMNode]], *, palette: bool) -> None:
        super().__init__("Palette" if palette else "What can be done here: enter does it")
        rows: Rows[int, Entry] = Rows(lambda entry: entry.number, _ENTRY_COLUMNS, sort="keys")
        nearest = sorted(found, key=lambda each: each[0].scope is Scope.APP)  # what is everywhere comes last
        self._entries = [Entry(i, action, node) for i, (action, node) in enumerate(nearest)]
        self._palette = palette
        self.table: Table[int, Entry] = Table(rows, id="actions", empty=lambda: "no action is called that")

    def compose_list(self) -> ComposeResult:
        yield self.table

    def on_mount(self) -> None:
        self.table.load(self._entries)
        (self.line if self._palette else self.table).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        words = [word.replace(":", " ").replace("/", " ") for word in event.value.split()]
        self.table.filter_rows(_ENTRY_GRAMMAR.parse(" ".join(words)))
        self.table.rows.move_to(0)
        self.table.repaint()

    def on_input_submitted(self) -> None:
        self.action_run()

    def on_key(self, event: object) -> None:
        key = getattr(event, "key", "")
        if self.line.has_focus and key in ("up", "down"):
            (self.table.action_up if key == "up" else self.table.action_down)()

    def action_run(self) -> None:
        self.dismiss(self.table.rows.current)


class ActionLog(ListScreen):
    """Everything that was done from here, as the command lines that do the same. Enter copies one."""

    def __init__(self, acts: Sequence[Act], copy: Callable[[str], None]) -> None:
        super().__init__("What was done here: enter copies the command line")
        rows: Rows[int, Act] = Rows(lambda act: act.number, _ACT_COLUMNS, sort="at")
        self._acts = list(acts)
        self._copy = copy
        self.table: Table[int, Act] = Table(rows, id="acts", empty=lambda: "nothing yet")

    def compose_list(self) -> ComposeResult:
        yield self.table

    def on_mount(self) -> None:
        self.table.load(self._acts)
        self.table.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        wanted = event.value.lower()
        self.table.filter_rows(lambda act: wanted in act.line.lower() or wanted in act.result.lower())

    def action_run(self) -> None:
        if (act := self.table.rows.current) is not None:
            self._copy(act.line)
        self.dismiss(None)
