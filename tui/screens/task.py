"""One task: what is known of it, and in tabs its output, why it waits, its attempts; or its log alone."""

from __future__ import annotations

import time
from typing import ClassVar

from textual.app import ComposeResult

from hakuriver.errors import HakuRiverError
from hakuriver.lifecycle import ENDED, State
from hakuriver.views import AttemptView, BatchView, ExplainView, NodeReason, TaskView
from tui.facts import command
from tui.live import Changes
from tui.messages import Chosen, Highlighted
from tui.plain import clean, fit
from tui.rows import Rows
from tui.screens.acting import ActingScreen
from tui.session import Session
from tui.task_facts import ATTEMPT_COLUMNS, WHY_COLUMNS, Fact, ahead_of, facts_of, state_of
from tui.widgets.bars import Lines, pane_title, tab_title
from tui.widgets.log_pane import LogPane
from tui.widgets.log_view import LogView
from tui.widgets.table import Table
from tui.widgets.tones import Piece

_LABEL = 11
_TWO_COLUMNS = 110
_ASK_AGAIN = 2.0
"""Seconds between two questions why a task waits, at least."""
_COUNT_AGAIN = 5.0
"""Seconds between two looks at how the batch stands."""
_NAMES = {"output": "Output", "why": "Why it waits", "attempts": "Attempts"}


class LogScreen(ActingScreen):
    """A task's log on the whole screen."""

    VIEW = "tasks"
    EXPLAINS: ClassVar[bool] = True

    def __init__(self, session: Session, task: TaskView) -> None:
        super().__init__(session)
        self.task_id = task["id"]
        self._shown = task
        self.pane = LogPane(session.remote, id="log-pane", explains=self.EXPLAINS)

    def compose_body(self) -> ComposeResult:
        yield self.pane

    def on_mount(self) -> None:
        self.log_view.show(self.task_id, self._shown["attempt"])
        self.begin()

    def begin(self) -> None:
        """Where the keyboard is at first. Textual runs ``on_mount`` of every class, this once."""
        self.log_view.focus()

    @property
    def log_view(self) -> LogView:
        return self.pane.view

    def selected_tasks(self) -> list[TaskView]:
        return [self._shown]

    def refresh_data(self, changes: Changes) -> None:
        del changes  # one task: looking is cheaper than asking whether it is among them
        found = self.session.mirror.tasks.get(self.task_id)
        if found is not None and found["attempt"] != self._shown["attempt"]:
            self.log_view.show(self.task_id, found["attempt"])
        if found is not None:
            self._shown = found
        self.pane.describe(self._shown)

    def on_screen_suspend(self) -> None:
        self.log_view.stop()

    def on_screen_resume(self) -> None:
        self.log_view.start()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "logs" and super().check_action(action, parameters)

    def step_back(self) -> bool:
        return super().step_back() or self.log_view.end_search()


class TaskScreen(LogScreen):
    """What is known of a task, above one of the tabs. A waiting one opens with why it waits."""

    EXPLAINS: ClassVar[bool] = False

    def __init__(self, session: Session, task: TaskView) -> None:
        super().__init__(session, task)
        self._heading = Lines(id="task-title")
        self._facts = Lines(id="facts")
        self._tabs_line = Lines(id="task-tabs")
        self._why_lines = Lines(id="why-text")
        why: Rows[str, NodeReason] = Rows(lambda row: row["node"], WHY_COLUMNS, sort="fits")
        attempts: Rows[int, AttemptView] = Rows(lambda row: row["attempt"], ATTEMPT_COLUMNS, sort="attempt")
        self.why = Table(why, id="why", empty=lambda: "asking the host…")
        self.attempts = Table(attempts, id="attempts", empty=lambda: "asking the host…")
        self.front_tab = "why" if task["state"] == State.PENDING else "output"
        self._batch: BatchView | None = None
        self._fetched: tuple[object, ...] = ()
        self._asked = self._counted = 0.0
        self._stale = True

    def compose_body(self) -> ComposeResult:
        yield self._heading
        yield self._facts
        yield self._tabs_line
        yield self._why_lines
        yield self.why
        yield self.attempts
        yield self.pane

    def begin(self) -> None:
        self._turn(self.front_tab)

    # tabs

    @property
    def _kinds(self) -> list[str]:
        return ["output", *(["why"] if self._shown["state"] == State.PENDING else []), "attempts"]

    @property
    def tabs(self) -> tuple[str, ...]:
        return tuple(_NAMES[kind] for kind in self._kinds)

    def turn_to(self, step: int) -> None:
        kinds = self._kinds
        self._turn(kinds[(kinds.index(self.front_tab) + step) % len(kinds)])

    def _turn(self, kind: str) -> None:
        self.front_tab = kind
        shown = {"output": self.pane, "why": self.why, "attempts": self.attempts}
        for name, widget in shown.items():
            widget.display = name == kind
        (self.log_view if kind == "output" else shown[kind]).focus()
        if kind == "why":
            self._ask_why()
        else:
            self._why_lines.put()
        self._show_facts()
        self.show_footer()

    def on_chosen(self, message: Chosen) -> None:
        if message.sender == "attempts" and isinstance(message.key, int):
            self.log_view.show(self.task_id, message.key)
            self._turn("output")
        elif message.sender == "why":
            self.hakuriver.open_node(str(message.key))

    def on_highlighted(self, _: Highlighted) -> None:
        self.show_footer()

    # what is known

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return ActingScreen.check_action(self, action, parameters)

    def refresh_data(self, changes: Changes) -> None:
        super().refresh_data(changes)
        self._stale = True
        if self.front_tab == "why" and self._shown["state"] != State.PENDING:
            self._turn("output")
        stands = (self._shown["state"], self._shown["attempt"], self._shown["reason"])
        if self._fetched != stands:
            self._fetched = stands
            self.run_worker(self._fetch(), group="task", exclusive=True)
            self._ask_why()
        self._show_facts()

    async def _fetch(self) -> None:
        try:
            found = await self.session.remote.task(self.task_id)
            if found["batch_size"] > 1:
                self._counted = time.monotonic()
                self._batch = await self.session.remote.batch(found["batch"])
        except HakuRiverError as error:
            self.say(error.message, "bad")
            self._fetched = ()
            return
        self.attempts.load(found.get("attempts", []))
        self._show_facts()

    def _ask_why(self) -> None:
        """Ask the host why it waits, while that is what is looked at."""
        if self.front_tab == "why":
            self._asked, self._stale = time.monotonic(), False
            self.run_worker(self._explain(), group="why", exclusive=True)

    async def _explain(self) -> None:
        try:
            found: ExplainView = await self.session.remote.explain(self.task_id)
        except HakuRiverError as error:
            self._why_lines.put([(f" {error.message}", "bad")])
            return
        if self.front_tab != "why":
            return
        self._why_lines.put([(f" {ahead_of(found)}", "wait")])
        self.why.sync({row["node"]: row for row in found["nodes"]})

    def tick(self) -> None:
        now = time.monotonic()
        if self._stale and now - self._asked > _ASK_AGAIN:
            self._ask_why()
        if self._batch is not None and now - self._counted > _COUNT_AGAIN and self._batch_alive():
            self._counted = now
            self.run_worker(self._fetch(), group="task", exclusive=True)
        self.attempts.tick()
        self._show_facts()

    def _batch_alive(self) -> bool:
        return self._batch is not None and any(
            count for state, count in self._batch["states"].items() if state not in ENDED
        )

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_facts)

    def _show_facts(self) -> None:
        task, width = self._shown, self.size.width
        title = f"Task {task['id']}" + (f" {clean(task['name'])}" if task["name"] else "")
        self._heading.put(pane_title(title, "", width))
        argv = fit(command(task), width - _LABEL - 2).rstrip()
        self._facts.put(
            _line("state", state_of(task)),
            _line("command", [(argv, "title")]),
            *_columns(facts_of(task, self._batch), width),
        )
        count = len(self.attempts.rows)
        names = [f"{name} {count}" if name == "Attempts" and count else name for name in self.tabs]
        self._tabs_line.put(tab_title(names, self._kinds.index(self.front_tab), "", width))


def _columns(facts: list[Fact], width: int) -> list[list[Piece]]:
    """Two beside each other where there is room."""
    if width < _TWO_COLUMNS:
        return [_line(label, [(fit(text, width - _LABEL - 2).rstrip(), "")]) for label, text in facts]
    half = width // 2
    lines: list[list[Piece]] = []
    for at in range(0, len(facts), 2):
        label, text = facts[at]
        line = _line(label, [(fit(text, half - _LABEL - 2), "")])
        if at + 1 < len(facts):
            line += _line(facts[at + 1][0], [(facts[at + 1][1], "")])
        lines.append(line)
    return lines


def _line(label: str, value: list[Piece]) -> list[Piece]:
    return [(f" {label:>{_LABEL - 2}}  ", "muted"), *value]
