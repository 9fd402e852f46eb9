"""The whole-screen tables: nodes and tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ComposeResult

from hakuriver.views import NodeView, TaskView
from tui.catalog import NODE_COLUMNS, NODE_GRAMMAR, TASK_COLUMNS, TASK_GRAMMAR
from tui.facts import node_problem, task_problem
from tui.filters import Grammar
from tui.live import Changes
from tui.messages import Chosen, Highlighted
from tui.rows import Rows
from tui.screens.base import ClusterScreen
from tui.screens.overview import task_facts
from tui.session import Session
from tui.widgets.bars import Lines, pane_title
from tui.widgets.table import AnyTable, Table


class TableScreen(ClusterScreen):
    """One table and its title."""

    NOUN: ClassVar[str] = ""

    def __init__(self, session: Session, table: AnyTable) -> None:
        super().__init__(session)
        self._table = table
        self._heading = Lines(id="table-title")

    def compose_body(self) -> ComposeResult:
        yield self._heading
        yield self._table

    def on_mount(self) -> None:
        self._table.focus()

    @property
    def table(self) -> AnyTable | None:
        return self._table

    @property
    def rows(self) -> Rows[Any, Any]:
        return self._table.rows

    def show_title(self) -> None:
        self._heading.put(pane_title(self.NOUN, task_facts(self, self._table), self.size.width))

    def on_resize(self) -> None:
        self.call_after_refresh(self.show_title)

    def on_highlighted(self, _: Highlighted) -> None:
        self.show_title()
        self.show_footer()

    def tick(self) -> None:
        self._table.tick()


class Tasks(TableScreen):
    VIEW = "tasks"
    NOUN = "Tasks"
    GRAMMAR: ClassVar[Grammar[Any] | None] = TASK_GRAMMAR
    PROBLEM: ClassVar[Callable[[Any], bool] | None] = staticmethod(task_problem)

    def __init__(self, session: Session) -> None:
        rows: Rows[int, TaskView] = Rows(lambda task: task["id"], TASK_COLUMNS, sort="id")
        empty = lambda: self.waiting_text("no task yet: n submits one")  # noqa: E731
        super().__init__(session, Table(rows, id="all-tasks", empty=empty))

    def selected_tasks(self) -> list[TaskView]:
        return self._table.rows.selected()

    def has_selection(self) -> bool:
        return self._table.rows.any_selected

    def refresh_data(self, changes: Changes) -> None:
        tasks = self.session.mirror.tasks
        if changes.reset:
            self._table.sync(tasks)
        elif changes.tasks:
            self._table.update_rows({key: tasks.get(key) for key in changes.tasks})
        self.show_title()

    def on_chosen(self, message: Chosen) -> None:
        if isinstance(message.key, int):
            self.hakuriver.open_task(message.key)


class Nodes(TableScreen):
    VIEW = "nodes"
    NOUN = "Nodes"
    GRAMMAR: ClassVar[Grammar[Any] | None] = NODE_GRAMMAR
    PROBLEM: ClassVar[Callable[[Any], bool] | None] = staticmethod(node_problem)

    def __init__(self, session: Session) -> None:
        rows: Rows[str, NodeView] = Rows(lambda node: node["name"], NODE_COLUMNS, sort="name")
        empty = lambda: self.waiting_text("no node has joined yet: hakuriver up on a machine adds it")  # noqa: E731
        super().__init__(session, Table(rows, id="all-nodes", empty=empty))

    def refresh_data(self, changes: Changes) -> None:
        nodes = self.session.mirror.nodes
        if changes.reset:
            self._table.sync(nodes)
        elif changes.nodes:
            self._table.update_rows({name: nodes.get(name) for name in changes.nodes})
        self.show_title()

    async def on_chosen(self, message: Chosen) -> None:
        await self.hakuriver.show_tasks_of(str(message.key))
