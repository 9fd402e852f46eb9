"""The form of a new task: each field says what is wrong with it while it is typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.suggester import Suggester
from textual.widgets import Input, Label, Static

from hakuriver.errors import HakuRiverError
from tui.actions import ACTIONS, Scope, bindings, shown_key
from tui.form import FIELDS, Parsed, completion, parse
from tui.plain import clean
from tui.remote import caller
from tui.screens.confirm import Confirm, Question
from tui.session import Session


class _NodeNames(Suggester):
    def __init__(self, names: Callable[[], list[str]]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._names = names

    async def get_suggestion(self, value: str) -> str | None:
        return completion(value, self._names())


class SubmitForm(ModalScreen[str | None]):
    """Dismissed with one line about what was submitted, or None."""

    SCOPES: ClassVar[frozenset[Scope]] = frozenset({Scope.FORM})
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.FORM)]

    def __init__(self, session: Session, filled: dict[str, str]) -> None:
        super().__init__()
        self._session = session
        self._filled = filled
        self._touched: set[str] = set()
        self._sending = False

    def compose(self) -> ComposeResult:
        with Vertical(id="form"):
            yield Static(f"New task on {clean(self._session.label)}", id="form-title", markup=False)
            with VerticalScroll(id="fields", can_focus=False):
                for field in FIELDS:
                    suggester = _NodeNames(self._names) if field.id == "target" else None
                    with Horizontal(classes="field"):
                        yield Label(field.label, classes="field-label", markup=False)
                        yield Input(
                            self._filled.get(field.id, ""),
                            placeholder=field.placeholder,
                            compact=True,
                            suggester=suggester,
                            id=f"field-{field.id}",
                        )
                    yield Label("", classes="field-error", id=f"error-{field.id}", markup=False)
            yield Static("", id="form-argv", markup=False)
            yield Static("", id="form-error", markup=False)
            yield Static(self._keys(), id="form-keys", markup=False)

    def on_mount(self) -> None:
        self.query_one("#field-command", Input).focus()
        self._check()

    @staticmethod
    def _keys() -> str:
        shown = [action for action in ACTIONS if action.scope is Scope.FORM and action.footer]
        return "  ".join(f"{shown_key(action.keys[0])} {action.label}" for action in shown)

    @property
    def dirty(self) -> bool:
        """Whether leaving would lose something that was typed."""
        return any(self._typed().get(field.id, "") != self._filled.get(field.id, "") for field in FIELDS)

    def _names(self) -> list[str]:
        return list(self._session.mirror.nodes)

    def _typed(self) -> dict[str, str]:
        return {field.id: self.query_one(f"#field-{field.id}", Input).value for field in FIELDS}

    def _check(self, *, everything: bool = False) -> Parsed:
        """Validate and show what is wrong; an untouched field is left in peace until submission."""
        parsed = parse(self._typed(), self._names())
        for field in FIELDS:
            wrong = parsed.errors.get(field.id, "")
            label = self.query_one(f"#error-{field.id}", Label)
            shown = wrong if everything or field.id in self._touched else ""
            label.update(clean(shown))
            label.display = bool(shown)
        argv = parsed.body.get("command")
        self.query_one("#form-argv", Static).update(f"argv  {clean(repr(argv))}" if argv else "")
        return parsed

    def on_input_changed(self, event: Input.Changed) -> None:
        name = (event.input.id or "").removeprefix("field-")
        if event.value != self._filled.get(name, ""):
            self._touched.add(name)
        self._say("")
        self._check()

    def on_input_submitted(self) -> None:
        self.action_submit()

    def _say(self, text: str) -> None:
        line = self.query_one("#form-error", Static)
        line.update(clean(text))
        line.display = bool(text)

    def action_form_next(self) -> None:
        self.focus_next(Input)

    def action_form_previous(self) -> None:
        self.focus_previous(Input)

    def action_complete(self) -> None:
        if isinstance(self.focused, Input):
            self.focused.action_end()
            self.focused.action_cursor_right()

    def action_form_leave(self) -> None:
        if not self.dirty:
            self.dismiss(None)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.dismiss(None)

        self.app.push_screen(
            Confirm(Question("Leave the form? What was typed is lost.", [], "leave", "stay")), answered
        )

    def action_submit(self) -> None:
        parsed = self._check(everything=True)
        if parsed.errors:
            first = next(field.id for field in FIELDS if field.id in parsed.errors)
            self.query_one(f"#field-{first}", Input).focus()
            return
        if not self._sending:
            self._sending = True
            self.run_worker(self._send(parsed.body), group="submit")

    async def _send(self, body: dict[str, Any]) -> None:
        sent = dict(body) | {"caller": caller()} if self._session.embedded else dict(body)
        try:
            answer = await self._session.submit(sent)
        except HakuRiverError as error:
            self._say(f"✗ {error.message}" + (f"  ({error.hint})" if error.hint else ""))
            return
        finally:
            self._sending = False
        ids = ", ".join(str(task["id"]) for task in answer["tasks"])
        refused = "; ".join(f"{each['target']}: {each['error']['message']}" for each in answer["refused"])
        self.dismiss(f"submitted {ids}" + (f"; refused {refused}" if refused else ""))
