"""One task: everything known about it, its attempts, and its log; or the log alone."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType

from hakuriver.errors import HakuRiverError
from hakuriver.units import format_cores, format_size
from hakuriver.views import AttemptView, TaskView
from tui.facts import clock, command, detail, elapsed, symbol, task_gpus, tone
from tui.live import Changes
from tui.plain import clean, fit
from tui.screens.base import ClusterScreen
from tui.session import Session
from tui.widgets.bars import Lines, pane_title
from tui.widgets.log_pane import LogPane
from tui.widgets.log_view import LogView
from tui.widgets.tones import Piece

_LABEL = 11


class LogScreen(ClusterScreen):
    """A task's log on the whole screen."""

    VIEW = "tasks"
    BINDINGS: ClassVar[list[BindingType]] = []
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
    """What is known of a task, above its log."""

    EXPLAINS: ClassVar[bool] = False

    def __init__(self, session: Session, task: TaskView) -> None:
        super().__init__(session, task)
        self._attempts: list[AttemptView] = []
        self._heading = Lines(id="task-title")
        self._facts = Lines(id="facts")
        self._attempts_heading = Lines(id="attempts-title")
        self._attempts_lines = Lines(id="attempts")
        self._fetched = ("", 0)

    def compose_body(self) -> ComposeResult:
        yield self._heading
        yield self._facts
        yield self._attempts_heading
        yield self._attempts_lines
        yield from super().compose_body()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return ClusterScreen.check_action(self, action, parameters)

    def refresh_data(self, changes: Changes) -> None:
        super().refresh_data(changes)
        stands = (self._shown["state"], self._shown["attempt"])
        if self._fetched != stands:
            self._fetched = stands
            self.run_worker(self._fetch(), group="task", exclusive=True)
        self._show_facts()

    async def _fetch(self) -> None:
        try:
            found = await self.session.remote.task(self.task_id)
        except HakuRiverError as error:
            self.say(error.message, "bad")
            self._fetched = ("", 0)
            return
        self._attempts = found.get("attempts", [])
        self._show_facts()

    def tick(self) -> None:
        self._show_facts()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_facts)

    def _show_facts(self) -> None:
        task, width = self._shown, self.size.width
        title = f"Task {task['id']}" + (f" {clean(task['name'])}" if task["name"] else "")
        self._heading.put(pane_title(title, "", width))
        self._facts.put(*_facts(task, width))
        rows = [_attempt(each) for each in self._attempts]
        self._attempts_heading.put(
            *([pane_title("Attempts", str(len(rows)), width)] if len(rows) > 1 else [])
        )
        self._attempts_lines.put(*(rows[-6:] if len(rows) > 1 else []))


def _facts(task: TaskView, width: int) -> list[list[Piece]]:
    state: list[Piece] = [(f"{symbol(task['state'])} {task['state'].replace('_', ' ')}", tone(task["state"]))]
    if why := detail(task):
        state.append((f"  {why}", "muted"))
    asked = f"{format_cores(task['cores'])} core{'s' * (task['cores'] != 1)}" + (
        f", {format_size(task['memory'])}" if task["memory"] else ", no memory cap"
    )
    gpus = f", GPU {task_gpus(task)}" if task["gpus"] else ""
    place = clean(task["node"] or "–") + (f" (asked for {clean(task['target'])})" if task["target"] else "")
    runs = clean(" ".join(filter(None, (task["executor"], task["container"], task["image"])))) or "–"
    times = " → ".join(clock(task[key]) for key in ("created_at", "started_at", "ended_at"))
    times = f"{times}   {elapsed(task)}"
    pairs: list[tuple[str, str]] = [
        ("node", place),
        ("resources", asked + gpus),
        ("owner", clean(task["owner"])),
        ("runs as", runs),
        ("batch", f"{task['batch']}" + (f"   tags {clean(' '.join(task['tags']))}" if task["tags"] else "")),
        ("times", times),
    ]
    argv = fit(command(task), width - _LABEL - 2).rstrip()
    lines: list[list[Piece]] = [_fact("state", state), _fact("command", [(argv, "title")])]
    if task["workdir"]:
        pairs.append(("folder", clean(task["workdir"])))
    if width < 110:
        return lines + [_fact(label, [(text, "")]) for label, text in pairs]
    half = width // 2
    for at in range(0, len(pairs), 2):
        label, text = pairs[at]
        line = _fact(label, [(fit(text, half - _LABEL - 2), "")])
        if at + 1 < len(pairs):
            line += _fact(pairs[at + 1][0], [(pairs[at + 1][1], "")])
        lines.append(line)
    return lines


def _fact(label: str, value: list[Piece]) -> list[Piece]:
    return [(f" {label:>{_LABEL - 2}}  ", "muted"), *value]


def _attempt(attempt: AttemptView) -> list[Piece]:
    how = attempt["error"] or attempt["reason"]
    code = "" if attempt["exit_code"] is None else f"exit {attempt['exit_code']}"
    return [
        (f" {attempt['attempt']:>9}  ", "muted"),
        (fit(f"{symbol(attempt['state'])} {attempt['state']}", 13), tone(attempt["state"])),
        (fit(clean(attempt["node"] or "–"), 14), ""),
        (fit(f"{clock(attempt['started_at'])} → {clock(attempt['ended_at'])}", 24), "muted"),
        (f"  {code}  {clean(how or '')}", "muted"),
    ]
