"""A screen that has tasks or nodes selected, and what can be done to them. It asks where it must."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

from textual.binding import BindingType

from hakuriver.lifecycle import ENDED, NodeState
from hakuriver.views import NodeView, TaskView
from tui.actions import Scope, bindings
from tui.facts import command, headline
from tui.plain import clean
from tui.screens.base import ClusterScreen
from tui.session import Session

_ASK_COUNT_FROM = 6
_TASK_VERBS = frozenset({"logs", "new_from", "copy", "resubmit"})
_LIVE_VERBS = frozenset({"pause", "kill", "hold", "release", "requeue", "requeue_force"})
_BATCH_VERBS = frozenset({"show_batch", "kill_batch"})
_NODE_VERBS = frozenset({"drain", "undrain", "node_tasks", "remove_node"})


class ActingScreen(ClusterScreen):
    """Verbs act on ``selected_tasks`` and ``selected_nodes``."""

    SCOPES: ClassVar[frozenset[Scope]] = frozenset({Scope.VIEW, Scope.TASKS, Scope.NODES})
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.VIEW, Scope.TASKS, Scope.NODES)]

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._to_drain: list[str] = []

    # what subclasses say

    def selected_tasks(self) -> list[TaskView]:
        """What verbs act on."""
        return []

    def selected_nodes(self) -> list[NodeView]:
        return []

    def current_task(self) -> TaskView | None:
        """The one under the cursor."""
        tasks = self.selected_tasks()
        return tasks[0] if tasks else None

    def has_selection(self) -> bool:
        """Whether there is any task that verbs could act on."""
        return bool(self.selected_tasks())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in _TASK_VERBS or action in _LIVE_VERBS:
            return self.has_selection()
        if action in _BATCH_VERBS:
            task = self.current_task()
            return task is not None and task["batch_size"] > 1
        if action in _NODE_VERBS:
            return bool(self.selected_nodes())
        if action == "undo":
            return bool(self.session.still_held())
        return super().check_action(action, parameters)

    # on tasks

    def do(self, work: Coroutine[Any, Any, str]) -> None:
        """Run an act in the background and say what became of it."""
        self.hakuriver.do(work)

    def action_new(self) -> None:
        self.hakuriver.open_form(None)

    def action_new_from(self) -> None:
        self.hakuriver.open_form(self.selected_tasks()[0])

    def action_undo(self) -> None:
        self.do(self.session.undo())

    def action_pause(self) -> None:
        self.do(self.session.pause_or_resume(self.selected_tasks()))

    def action_hold(self) -> None:
        self.do(self.session.hold_or_release(self.selected_tasks()))

    def action_release(self) -> None:
        self.do(self.session.release(self.selected_tasks()))

    def action_copy(self) -> None:
        lines = "\n".join(command(task) for task in self.selected_tasks())
        self.app.copy_to_clipboard(lines)
        self.say(f"copied: {lines.splitlines()[0]}")

    def action_logs(self) -> None:
        self.hakuriver.open_logs(self.selected_tasks()[0])

    def action_kill(self) -> None:
        tasks = self.selected_tasks()
        self._ask_kill(tasks, f"Kill {_count(tasks)}", lambda: self.session.kill(tasks))

    def action_kill_batch(self) -> None:
        if (shown := self.current_task()) is None:
            return
        batch = shown["batch"]
        tasks = [
            task
            for task in self.session.mirror.tasks.values()
            if task["batch"] == batch and task["state"] not in ENDED
        ]
        if not tasks:
            self.say(f"nothing of batch {batch} is alive")
            return
        title = f"Kill what is alive of batch {batch}, {_count(tasks)},"
        self._ask_kill(tasks, title, lambda: self.session.kill(tasks, batch))

    def _ask_kill(
        self, tasks: list[TaskView], title: str, kill: Callable[[], Coroutine[Any, Any, str]]
    ) -> None:
        foreign = sum(self.session.subject not in (None, task["owner"]) for task in tasks)
        self._confirm(
            f"{title} on {self.session.label}?",
            tasks,
            yes="kill",
            work=kill,
            count=len(tasks) if foreign or len(tasks) >= _ASK_COUNT_FROM else None,
            note=f"{foreign} of them belong to others" if foreign else "",
        )

    def action_resubmit(self) -> None:
        tasks = self.selected_tasks()
        if len(tasks) == 1:
            self.do(self.session.resubmit(tasks))
            return
        self._confirm(
            f"Submit {_count(tasks)} again on {self.session.label}?",
            tasks,
            yes="submit",
            work=lambda: self.session.resubmit(tasks),
        )

    def action_requeue(self) -> None:
        tasks = self.selected_tasks()
        self._confirm(
            f"Move {_count(tasks)} away from {_nodes_of(tasks)} on {self.session.label}?",
            tasks,
            yes="requeue",
            work=lambda: self.session.requeue(tasks, force=False),
        )

    def action_requeue_force(self) -> None:
        tasks = self.selected_tasks()
        self._confirm(
            f"Requeue {_count(tasks)} of {_nodes_of(tasks)} by force on {self.session.label}?",
            tasks,
            yes="requeue by force",
            work=lambda: self.session.requeue(tasks, force=True),
            count=len(tasks),
            note="Only when the old copy can't run any more (the machine is off, or you ended it yourself): "
            "else two copies run at a time and write to the same files.",
        )

    async def action_show_batch(self) -> None:
        if (task := self.current_task()) is not None:
            await self.hakuriver.show_tasks(f"batch:{task['batch']}")

    # on nodes

    def action_drain(self) -> None:
        nodes = self.selected_nodes()
        if all(node["drained"] for node in nodes):
            self.action_undrain()
            return
        self._to_drain = [node["name"] for node in nodes if not node["drained"]]
        names = ", ".join(self._to_drain)
        self.ask("drain", clean(f"drain {names} on {self.session.label}, because"), "", list)

    def answered(self, kind: str, text: str) -> None:
        if kind == "drain":
            self.do(self.session.drain(self._to_drain, text.strip()))

    def action_undrain(self) -> None:
        names = [node["name"] for node in self.selected_nodes() if node["drained"]]
        if names:
            self.do(self.session.undrain(names))
        else:
            self.say("it isn't drained")

    async def action_node_tasks(self) -> None:
        await self.hakuriver.show_tasks(f"node:{self.selected_nodes()[0]['name']}")

    def action_remove_node(self) -> None:
        from tui.screens.confirm import Confirm, Question

        nodes = self.selected_nodes()
        names = [node["name"] for node in nodes]
        question = Question(
            f"Forget {', '.join(names)} on {self.session.label}?",
            [f"{node['name']:<16} {node['state']:<12} {node['tasks']} tasks there" for node in nodes],
            yes="forget",
            note="A node that is online joins again." if _any_online(nodes) else "",
        )

        def answered(yes: bool | None) -> None:
            if yes:
                self.do(self.session.remove_nodes(names))

        self.app.push_screen(Confirm(question), answered)

    # asking

    def _confirm(
        self,
        title: str,
        tasks: Sequence[TaskView],
        *,
        yes: str,
        work: Callable[[], Coroutine[Any, Any, str]],
        count: int | None = None,
        note: str = "",
    ) -> None:
        from tui.screens.confirm import Confirm, Question

        lines = [
            f"{task['id']:>6}  {task['state']:<10} {task['owner']:<10} {headline(task)}" for task in tasks
        ]

        def answered(sure: bool | None) -> None:
            if sure:
                self.do(work())
                if self.table is not None:
                    self.table.rows.marks.clear()
                    self.table.rows.range_from = None
                    self.table.repaint()

        self.app.push_screen(Confirm(Question(title, lines, yes=yes, count=count, note=note)), answered)


def _count(tasks: Sequence[TaskView]) -> str:
    return f"{len(tasks)} task{'s' * (len(tasks) != 1)}"


def _nodes_of(tasks: Sequence[TaskView]) -> str:
    return ", ".join(sorted({task["node"] for task in tasks if task["node"]})) or "nowhere"


def _any_online(nodes: Sequence[NodeView]) -> bool:
    return any(node["state"] == NodeState.ONLINE for node in nodes)
