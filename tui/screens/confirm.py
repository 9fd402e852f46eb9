"""A question whose safe answer is the default: enter is no."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from tui.actions import Scope, bindings
from tui.plain import clean

_LINES = 8


@dataclass(frozen=True, slots=True)
class Question:
    """``count``: yes only by typing this number."""

    title: str
    lines: list[str]
    yes: str
    no: str = "cancel"
    count: int | None = None
    note: str = ""


class Confirm(ModalScreen[bool]):
    """Answers True only for ``y``, or the count typed."""

    SCOPES: ClassVar[frozenset[Scope]] = frozenset({Scope.CONFIRM})
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.CONFIRM)]

    def __init__(self, question: Question) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        question = self._question
        shown = [clean(line) for line in question.lines[:_LINES]]
        if len(question.lines) > _LINES:
            shown.append(f"       … and {len(question.lines) - _LINES} more")
        with Vertical(id="question"):
            yield Static(clean(question.title), id="question-title", markup=False)
            if shown:
                yield Static("\n".join(shown), id="question-lines", markup=False)
            if question.note:
                yield Static(clean(question.note), id="question-note", markup=False)
            if question.count is None:
                yield Static(
                    f"  y {question.yes}      n ▸ {question.no} ◂ enter", id="question-keys", markup=False
                )
            else:
                yield Static(
                    f"  type {question.count} and enter to {question.yes}; enter or esc: {question.no}",
                    id="question-keys",
                    markup=False,
                )
                yield Input(compact=True, type="integer", id="question-count")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip() == str(self._question.count))

    def action_confirm(self) -> None:
        if self._question.count is None:
            self.dismiss(True)

    def action_cancel(self) -> None:
        self.dismiss(False)
