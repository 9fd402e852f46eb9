"""The whole-screen tables: nodes, GPUs and tasks. Nodes and GPUs are two tabs of one view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ComposeResult

from hakuriver.views import NodeView, TaskView
from tui.catalog import NODE_COLUMNS, NODE_GRAMMAR, TASK_COLUMNS, TASK_GRAMMAR
from tui.facts import node_problem, task_problem
from tui.filters import Grammar
from tui.gpu_catalog import GPU_COLUMNS, GPU_GRAMMAR, gpu_problem
from tui.gpus import GpuRow, rows_of
from tui.live import Changes
from tui.messages import Chosen, Highlighted
from tui.plain import clean
from tui.rows import Rows
from tui.screens.acting import ActingScreen
from tui.screens.overview import task_facts
from tui.session import Session
from tui.widgets.bars import Lines, pane_title, tab_title
from tui.widgets.node_card import NodeCard
from tui.widgets.table import AnyTable, Table

_NO_NODE = "no node has joined yet: hakuriver up on a machine adds it"
_PLACES = ("nodes", "gpus")


class TableScreen(ActingScreen):
    """One table and its title; the title has the tabs when there are any."""

    NOUN: ClassVar[str] = ""
    PLACE: ClassVar[str] = ""

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

    @property
    def tabs(self) -> tuple[str, ...]:
        return ("Nodes", "GPUs") if self.PLACE else ()

    def turn_to(self, step: int) -> None:
        """Tabs of tables are views of their own, each with its filter and cursor."""
        at = (_PLACES.index(self.PLACE) + step) % len(_PLACES)
        self.run_worker(self.hakuriver.go_to(_PLACES[at]), group="tabs")

    def show_title(self) -> None:
        facts, width = task_facts(self, self._table), self.size.width
        if self.PLACE:
            self._heading.put(tab_title(self.tabs, _PLACES.index(self.PLACE), facts, width))
        else:
            self._heading.put(pane_title(self.NOUN, facts, width))

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

    def current_task(self) -> TaskView | None:
        return self._table.rows.current

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
    """Every node, and below the one under the cursor with its GPUs."""

    VIEW = "nodes"
    PLACE = "nodes"
    GRAMMAR: ClassVar[Grammar[Any] | None] = NODE_GRAMMAR
    PROBLEM: ClassVar[Callable[[Any], bool] | None] = staticmethod(node_problem)

    def __init__(self, session: Session) -> None:
        rows: Rows[str, NodeView] = Rows(lambda node: node["name"], NODE_COLUMNS, sort="name")
        super().__init__(session, Table(rows, id="all-nodes", empty=lambda: self.waiting_text(_NO_NODE)))
        self._card_title = Lines(id="card-title")
        self._card = NodeCard(id="card")

    def compose_body(self) -> ComposeResult:
        yield from super().compose_body()
        yield self._card_title
        yield self._card

    def selected_nodes(self) -> list[NodeView]:
        return self._table.rows.selected()

    def refresh_data(self, changes: Changes) -> None:
        nodes = self.session.mirror.nodes
        if changes.reset:
            self._table.sync(nodes)
        elif changes.nodes:
            self._table.update_rows({name: nodes.get(name) for name in changes.nodes})
        current = self._table.rows.cursor
        if changes.reset or changes.link or current in changes.nodes:
            self._show_card()
        self.show_title()

    def _show_card(self) -> None:
        node: NodeView | None = self._table.rows.current
        body = max(0, self.size.height - 3)
        most = max(3, body // 2, body - len(self._table.rows) - 3)
        self._card_title.put(*([pane_title(clean(node["name"]), "", self.size.width)] if node else []))
        self._card.show(node, self.session.mirror.tasks.get, most=most)

    def on_highlighted(self, message: Highlighted) -> None:
        super().on_highlighted(message)
        self._show_card()

    def on_resize(self) -> None:
        super().on_resize()
        self.call_after_refresh(self._show_card)

    def on_chosen(self, message: Chosen) -> None:
        self.hakuriver.open_node(str(message.key))


class Gpus(TableScreen):
    """Every GPU of the cluster, and who has it. Verbs act on the tasks that hold the selected ones."""

    VIEW = "nodes"
    PLACE = "gpus"
    GRAMMAR: ClassVar[Grammar[Any] | None] = GPU_GRAMMAR
    PROBLEM: ClassVar[Callable[[Any], bool] | None] = staticmethod(gpu_problem)

    def __init__(self, session: Session) -> None:
        rows: Rows[tuple[str, int], GpuRow] = Rows(lambda row: row.key, GPU_COLUMNS, sort="node")
        empty = lambda: self.waiting_text("no node has a GPU: a node's detail says why")  # noqa: E731
        super().__init__(session, Table(rows, id="all-gpus", empty=empty))

    def selected_tasks(self) -> list[TaskView]:
        held: dict[int, TaskView] = {row.task["id"]: row.task for row in self.rows.selected() if row.task}
        return list(held.values())

    def selected_nodes(self) -> list[NodeView]:
        nodes = self.session.mirror.nodes
        names = dict.fromkeys(row.node for row in self.rows.selected())
        return [nodes[name] for name in names if name in nodes]

    def refresh_data(self, changes: Changes) -> None:
        if changes.reset or changes.nodes or changes.tasks:
            mirror = self.session.mirror
            new, old = rows_of(mirror.nodes.values(), mirror.tasks.get), self.rows.all
            changed: dict[tuple[str, int], GpuRow | None] = {
                key: row for key, row in new.items() if old.get(key) != row
            }
            changed |= dict.fromkeys(old.keys() - new.keys())
            if changed:
                self._table.update_rows(changed)
        self.show_title()

    def on_chosen(self, _: Chosen) -> None:
        row: GpuRow | None = self.rows.current
        if row is not None and row.task is not None:
            self.hakuriver.open_task(row.task["id"])
        elif row is not None:
            self.hakuriver.open_node(row.node)
