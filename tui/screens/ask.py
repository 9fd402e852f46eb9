"""A few questions at once: each says what is wrong with its answer while it is typed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Label, Static

from tui.actions import Scope, available, bindings, shown_key
from tui.plain import clean
from tui.widgets.bars import Lines


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing to answer; ``wrong`` says what is wrong with a text, or nothing."""

    id: str
    label: str
    placeholder: str
    wrong: Callable[[str], str]
    suggestions: Sequence[str] = ()


class AskForm(ModalScreen[dict[str, str] | None]):
    """Dismissed with the answers by id, without spaces around them, or None when it was left."""

    SCOPES: ClassVar[frozenset[Scope]] = frozenset({Scope.FORM})
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.FORM)]

    def __init__(self, title: str, asked: Sequence[Asked], note: str = "") -> None:
        super().__init__()
        self._heading = title
        self._asked = list(asked)
        self._note = note
        self._touched: set[str] = set()

    def compose(self) -> ComposeResult:
        with Vertical(id="ask"):
            yield Static(clean(self._heading), id="ask-title", markup=False)
            for each in self._asked:
                with Horizontal(classes="row"):
                    yield Label(each.label, classes="field-label", markup=False)
                    yield Input(
                        placeholder=each.placeholder,
                        compact=True,
                        suggester=SuggestFromList(each.suggestions) if each.suggestions else None,
                        id=f"field-{each.id}",
                    )
                yield Label("", classes="field-error", id=f"error-{each.id}", markup=False)
            if self._note:
                yield Static(clean(self._note), id="ask-note", markup=False)
            yield Lines(id="ask-keys")

    def on_mount(self) -> None:
        self._check()
        self.query(Input).first().focus()
        shown = sorted((action for action, _ in available(self) if action.footer), key=lambda a: a.footer)
        pieces = [
            piece
            for action in shown
            for piece in ((shown_key(action.keys[0]), "accent"), (f" {action.label}  ", "muted"))
        ]
        self.query_one("#ask-keys", Lines).put(pieces)

    def _answers(self) -> dict[str, str]:
        return {each.id: self.query_one(f"#field-{each.id}", Input).value.strip() for each in self._asked}

    def _check(self, *, everything: bool = False) -> str:
        """Show what is wrong; returns the first field that is."""
        answers, first = self._answers(), ""
        for each in self._asked:
            wrong = each.wrong(answers[each.id])
            first = first or (each.id if wrong else "")
            label = self.query_one(f"#error-{each.id}", Label)
            shown = wrong if everything or each.id in self._touched else ""
            label.update(clean(shown))
            label.display = bool(shown)
        return first

    def on_input_changed(self, event: Input.Changed) -> None:
        self._touched.add((event.input.id or "").removeprefix("field-"))
        self._check()

    def on_input_submitted(self) -> None:
        self.action_submit()

    def action_submit(self) -> None:
        """Answer; with something missing, go to it."""
        if wrong := self._check(everything=True):
            self.query_one(f"#field-{wrong}", Input).focus()
        else:
            self.dismiss(self._answers())

    def action_form_next(self) -> None:
        self.focus_next(Input)

    def action_form_previous(self) -> None:
        self.focus_previous(Input)

    def action_complete(self) -> None:
        if isinstance(self.focused, Input):
            self.focused.action_end()
            self.focused.action_cursor_right()

    def action_form_leave(self) -> None:
        self.dismiss(None)
