"""The first screen: every node's meters, every task, and the end of the selected task's log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container, Vertical
from textual.timer import Timer

from hakuriver.views import NodeView, TaskView
from tui.actions import Scope, bindings
from tui.catalog import TASK_COLUMNS, TASK_GRAMMAR
from tui.facts import task_problem
from tui.filters import Grammar
from tui.live import Changes
from tui.messages import Chosen, Highlighted, NodeAsked
from tui.rows import Rows
from tui.screens.acting import ActingScreen
from tui.screens.base import ClusterScreen
from tui.session import Session
from tui.widgets.bars import Lines, pane_title
from tui.widgets.log_pane import LogPane
from tui.widgets.panels import NodePanels
from tui.widgets.table import AnyTable, Table

_BESIDE_FROM = 190
_SHARES = (1, 2, 3, 4, 6)
_SETTLE = 0.12
"""Seconds the cursor must rest on a task before its log is asked for."""


def task_facts(screen: ClusterScreen, table: AnyTable) -> str:
    """How many of how many, and why."""
    rows = table.rows
    count = f"{len(rows)} of {len(rows.all)}" if len(rows) != len(rows.all) else str(len(rows))
    marked = f"{len(rows.marks)} marked" if rows.marks else ""
    problems = "problems only" if screen.only_problems else ""
    return " · ".join(
        filter(None, (count, marked, f"/{screen.filter_text}" if screen.filter_text else "", problems))
    )


class Overview(ActingScreen):
    VIEW = "overview"
    SCOPES: ClassVar[frozenset[Scope]] = ActingScreen.SCOPES | {Scope.OVERVIEW}
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.OVERVIEW)]
    GRAMMAR: ClassVar[Grammar[Any] | None] = TASK_GRAMMAR
    PROBLEM: ClassVar[Callable[[Any], bool] | None] = staticmethod(task_problem)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.HORIZONTAL_BREAKPOINTS = [(0, "-below"), (_BESIDE_FROM, "-beside")]
        self.share = 1
        self.panels = NodePanels(id="panels")
        self._tasks_title = Lines(id="tasks-title")
        self.pane = LogPane(session.remote, id="log-pane")
        self._resting: Timer | None = None
        self.tasks: Table[int, TaskView] = Table(
            Rows(lambda task: task["id"], TASK_COLUMNS, sort="id"),
            id="tasks",
            empty=lambda: self.waiting_text("no task yet: n submits one"),
        )

    def compose_body(self) -> ComposeResult:
        yield self.panels
        with Container(id="split"):
            with Vertical(id="tasks-pane"):
                yield self._tasks_title
                yield self.tasks
            yield self.pane

    def on_mount(self) -> None:
        self.tasks.focus()

    @property
    def table(self) -> AnyTable | None:
        return self.tasks

    def selected_tasks(self) -> list[TaskView]:
        return self.tasks.rows.selected()

    def current_task(self) -> TaskView | None:
        return self.tasks.rows.current

    def has_selection(self) -> bool:
        return self.tasks.rows.any_selected

    def selected_nodes(self) -> list[NodeView]:
        """The panel that has the keyboard."""
        node = self.session.mirror.nodes.get(self.panels.selected or "")
        return [node] if node and self.panels.has_focus else []

    def refresh_data(self, changes: Changes) -> None:
        mirror = self.session.mirror
        if changes.reset:
            self.tasks.sync(mirror.tasks)
        elif changes.tasks:
            self.tasks.update_rows({key: mirror.tasks.get(key) for key in changes.tasks})
        if changes.reset or changes.nodes or changes.link:
            self._show_nodes()
        self._show_titles()
        current = self.tasks.rows.current
        log = self.pane.view
        if current is not None and log.shown is not None and current["id"] == log.shown[0]:
            log.show(current["id"], current["attempt"])  # a new attempt has a new log

    def _show_nodes(self) -> None:
        most = max(3, round(self.size.height * (0.3 if self.size.height < 40 else 0.36)))
        empty = self.waiting_text("no node has joined yet: hakuriver up on a machine adds it")
        mirror = self.session.mirror
        self.panels.show(mirror.nodes.values(), mirror.tasks.get, most=most, empty=empty)

    def _show_titles(self) -> None:
        title = self._tasks_title
        title.put(pane_title("Tasks", task_facts(self, self.tasks), title.size.width or self.size.width))
        self._show_log_title()

    def _show_log_title(self) -> None:
        shown = self.pane.view.shown
        # of the mirror, not of the table: that may be arranging its rows anew just now
        self.pane.describe(self.session.mirror.tasks.get(shown[0]) if shown else None)

    def tick(self) -> None:
        self.tasks.tick()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_all)

    def _show_all(self) -> None:
        self._show_nodes()
        self._show_titles()

    def on_highlighted(self, message: Highlighted) -> None:
        if message.sender == "tasks":
            if self._resting is not None:
                self._resting.stop()
            self._resting = self.set_timer(_SETTLE, self._show_log)
            self._show_titles()
            self.show_footer()

    def _show_log(self) -> None:
        task = self.tasks.rows.current
        self.pane.view.show(task["id"] if task else None, task["attempt"] if task else 1)
        self._show_log_title()

    def on_chosen(self, message: Chosen) -> None:
        if message.sender == "panels":
            self.set_filter(f"node:{message.key}")
            self.tasks.focus()
        elif isinstance(message.key, int):
            self.hakuriver.open_task(message.key)

    def on_node_asked(self, message: NodeAsked) -> None:
        self.hakuriver.open_node(message.name)

    def on_screen_suspend(self) -> None:
        self.pane.view.stop()

    def on_screen_resume(self) -> None:
        self.pane.view.start()

    def action_grow(self) -> None:
        self._resize_log(1)

    def action_shrink(self) -> None:
        self._resize_log(-1)

    def _resize_log(self, step: int) -> None:
        self.share = max(0, min(len(_SHARES) - 1, self.share + step))
        pane = self.pane
        pane.styles.height = pane.styles.width = f"{_SHARES[self.share]}fr"
        if not self.has_class("-beside"):
            pane.styles.width = "100%"
        else:
            pane.styles.height = "100%"
