"""One node: everything known about it, and the tasks that are or were there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ComposeResult

from hakuriver.views import NodeView, TaskView
from tui.catalog import TASK_COLUMNS, TASK_GRAMMAR
from tui.facts import node_state, task_problem
from tui.filters import Grammar
from tui.live import Changes
from tui.messages import Chosen, Highlighted
from tui.plain import clean
from tui.rows import Rows
from tui.screens.acting import ActingScreen
from tui.screens.overview import task_facts
from tui.session import Session
from tui.widgets.bars import Lines, pane_title
from tui.widgets.node_card import NodeCard
from tui.widgets.table import AnyTable, Table

_TABLE_LINES = 5


class NodeScreen(ActingScreen):
    VIEW = "nodes"
    GRAMMAR: ClassVar[Grammar[Any] | None] = TASK_GRAMMAR
    PROBLEM: ClassVar[Callable[[Any], bool] | None] = staticmethod(task_problem)

    def __init__(self, session: Session, name: str) -> None:
        super().__init__(session)
        self.node_name = name
        self._heading = Lines(id="node-title")
        self._card = NodeCard(id="card")
        self._tasks_title = Lines(id="tasks-title")
        self._tasks: Table[int, TaskView] = Table(
            Rows(lambda task: task["id"], TASK_COLUMNS, sort="id"),
            id="node-tasks",
            empty=lambda: self.waiting_text("no task is or was here"),
        )

    def compose_body(self) -> ComposeResult:
        yield self._heading
        yield self._card
        yield self._tasks_title
        yield self._tasks

    def on_mount(self) -> None:
        self._tasks.focus()

    @property
    def table(self) -> AnyTable | None:
        return self._tasks

    def selected_tasks(self) -> list[TaskView]:
        return self._tasks.rows.selected()

    def current_task(self) -> TaskView | None:
        return self._tasks.rows.current

    def has_selection(self) -> bool:
        return self._tasks.rows.any_selected

    def selected_nodes(self) -> list[NodeView]:
        node = self.session.mirror.nodes.get(self.node_name)
        return [node] if node else []

    def refresh_data(self, changes: Changes) -> None:
        tasks = self.session.mirror.tasks
        if changes.reset:
            self._tasks.sync({key: task for key, task in tasks.items() if task["node"] == self.node_name})
        elif changes.tasks:
            self._tasks.update_rows({key: self._mine(tasks.get(key)) for key in changes.tasks})
        self._show_node()

    def _mine(self, task: TaskView | None) -> TaskView | None:
        return task if task is not None and task["node"] == self.node_name else None

    def _show_node(self) -> None:
        node, width = self.session.mirror.nodes.get(self.node_name), self.size.width
        state = "".join(text for text, _ in node_state(node)) if node else "gone"
        self._heading.put(pane_title(f"Node {clean(self.node_name)}", state, width))
        most = max(4, self.size.height - 4 - _TABLE_LINES)
        self._card.show(node, self.session.mirror.tasks.get, most=most, facts=True)
        self._tasks_title.put(pane_title("Its tasks", task_facts(self, self._tasks), width))

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_node)

    def on_highlighted(self, _: Highlighted) -> None:
        self._show_node()
        self.show_footer()

    def tick(self) -> None:
        self._tasks.tick()

    def on_chosen(self, message: Chosen) -> None:
        if isinstance(message.key, int):
            self.hakuriver.open_task(message.key)
