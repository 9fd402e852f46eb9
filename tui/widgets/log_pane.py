"""A log with the line that says whose it is, and the one that says what went wrong."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical

from hakuriver.views import TaskView
from tui.facts import headline, how_it_failed, no_log
from tui.messages import LogMoved
from tui.plain import fit
from tui.remote import Remote
from tui.widgets.bars import Lines, pane_title
from tui.widgets.log_view import LogView


class LogPane(Vertical):
    """``view`` reads; ``describe`` says which task's log it is. ``explains``: with a line for a bad end."""

    def __init__(self, remote: Remote, *, id: str, explains: bool = True) -> None:
        super().__init__(id=id)
        self.view = LogView(remote, id="log")
        self._heading = Lines(id="log-title")
        self._why = Lines(id="log-why")
        self._of: TaskView | None = None
        self._explains = explains

    def compose(self) -> ComposeResult:
        yield self._heading
        yield self._why
        yield self.view

    def describe(self, task: TaskView | None) -> None:
        self._of = task
        if not self.is_mounted:
            return
        width = self.size.width or self.app.size.width
        self.view.excuse = no_log(task) if task else ("", "")
        name = f"{self.view.stream_name} of {task['id']}" if task else "Log"
        if task and self.view.shown and self.view.shown[1] != task["attempt"]:
            name += f" attempt {self.view.shown[1]}"
        facts = " · ".join(filter(None, (headline(task) if task else "", self.view.title)))
        room = max(0, width - len(name) - 6)
        self._heading.put(pane_title(name, fit(facts, room).rstrip() if facts else "", width))
        why = how_it_failed(task) if task and self._explains else ""
        self._why.put(*([[(fit(f" {why}", width), "bad")]] if why else []))

    def on_log_moved(self, message: LogMoved) -> None:
        message.stop()
        self._describe_again()

    def on_resize(self) -> None:
        self.call_after_refresh(self._describe_again)

    def _describe_again(self) -> None:
        self.describe(self._of)
