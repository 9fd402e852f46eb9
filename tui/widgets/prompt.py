"""The one line where filters, commands and searches are typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.suggester import SuggestFromList
from textual.widgets import Input, Label

from tui.messages import KeyboardMoved, PromptChanged, PromptClosed

PROMPT_KEYS = (("enter", "done"), ("esc", "give up"), ("→", "complete"), ("↑", "what was typed before"))


class _Line(Input):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "give_up", show=False),
        Binding("up", "recall(1)", show=False),
        Binding("down", "recall(-1)", show=False),
    ]

    def __init__(self, answered: Callable[[], None], history: list[str], suggestions: list[str]) -> None:
        super().__init__(
            compact=True,
            suggester=SuggestFromList(suggestions, case_sensitive=False) if suggestions else None,
        )
        self._answered = answered
        self._past = history
        self._back = 0

    async def action_submit(self) -> None:
        self._answered()
        await super().action_submit()

    def action_give_up(self) -> None:
        self._answered()
        self.post_message(self.Submitted(self, "\x1b"))

    def action_recall(self, step: int) -> None:
        self._back = max(0, min(len(self._past), self._back + step))
        self.value = self._past[-self._back] if self._back else ""
        self.cursor_position = len(self.value)


class Prompt(Horizontal):
    """Mounted while somebody types. ``kind`` comes back in its messages."""

    def __init__(
        self, kind: str, sign: str, value: str, history: list[str], suggestions: Callable[[], list[str]]
    ) -> None:
        super().__init__(id="prompt")
        self._kind = kind
        self._sign = sign
        self._value = value
        self._past = history
        self._suggestions = suggestions
        self.listens = False
        """Whether it has the keyboard: not yet, or no more once it was answered."""

    def compose(self) -> ComposeResult:
        yield Label(self._sign, id="prompt-sign", markup=False)
        yield _Line(self._is_answered, self._past, self._suggestions())
        yield Label("", id="prompt-error", markup=False)

    def on_mount(self) -> None:
        line = self.query_one(_Line)
        line.value = self._value
        line.focus()

    def on_descendant_focus(self) -> None:
        self.listens = True
        self.post_message(KeyboardMoved())

    def _is_answered(self) -> None:
        self.listens = False

    def complain(self, text: str) -> None:
        """What is wrong with what stands here; empty when nothing is."""
        self.query_one("#prompt-error", Label).update(text)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(PromptChanged(self._kind, event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        given_up = event.value == "\x1b"
        if not given_up and event.value and event.value not in self._past[-1:]:
            self._past.append(event.value)
        self.post_message(PromptClosed(self._kind, None if given_up else event.value))
