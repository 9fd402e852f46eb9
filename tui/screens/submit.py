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
from hakuriver.lifecycle import ENDED
from tui.actions import Scope, available, bindings, shown_key
from tui.environments import reference_completion
from tui.form import FIELDS, ROWS, Field, Parsed, completion, count_of, has_span, parse, preview, with_gpus
from tui.messages import Picked, Ticked
from tui.plain import clean
from tui.remote import caller
from tui.screens.confirm import Confirm, Question
from tui.session import Session
from tui.widgets.bars import Lines
from tui.widgets.flag import Flag
from tui.widgets.picker import TargetPicker

_ENTRIES = "Input, Flag, TargetPicker"
_AROUND_FIELDS = 5
"""Lines of the form that are no fields: its border, title, error and keys."""
_FRAME = 9
_LEAST_PLACES = 7
"""Lines of the places at least, words and header included; the fields scroll then."""


class _Completed(Suggester):
    def __init__(self, completed: Callable[[str], str | None]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._completed = completed

    async def get_suggestion(self, value: str) -> str | None:
        return self._completed(value)


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
        self._picker = TargetPicker(id="picker")
        self._preview = Static("", id="form-preview", markup=False)

    def compose(self) -> ComposeResult:
        with Vertical(id="form"):
            yield Static(f"New task on {clean(self._session.label)}", id="form-title", markup=False)
            with VerticalScroll(id="fields", can_focus=False):
                for row in ROWS:
                    with Horizontal(classes="row"):
                        for field in row:
                            yield Label(field.label, classes="field-label", markup=False)
                            yield self._entry(field)
                    yield Label("", classes="field-error", id=f"error-{row[0].id}", markup=False)
                    if row[0].id == "command":
                        yield self._preview
                    if row[0].id == "target":
                        yield self._picker
            yield Static("", id="form-error", markup=False)
            yield Lines(id="form-keys")

    def _entry(self, field: Field) -> Input | Flag:
        filled = self._filled.get(field.id, "")
        if field.flag:
            return Flag(field.placeholder, id=f"field-{field.id}", ticked=bool(filled))
        return Input(
            filled,
            placeholder=field.placeholder,
            compact=True,
            select_on_focus=False,
            suggester=self._suggester(field.id),
            id=f"field-{field.id}",
        )

    def _suggester(self, field: str) -> Suggester | None:
        mirror = self._session.mirror
        if field == "target":
            return _Completed(lambda text: completion(text, mirror.nodes))
        if field == "container":
            return _Completed(lambda text: reference_completion(text, mirror.environments))
        return None

    def on_mount(self) -> None:
        self._input("command").focus()
        self._say("")
        self._show_places()
        self._check()
        self.set_interval(1.0, self._show_places)

    def on_resize(self) -> None:
        self.query_one("#fields").styles.max_height = max(3, self.size.height - _AROUND_FIELDS)
        self.call_after_refresh(self._show_places)

    def on_descendant_focus(self) -> None:
        """The places are there while somebody thinks about them, or always where there is room."""
        focused = self.focused
        picking = focused is not None and focused.id in ("field-target", "picker")
        self._picker.display = picking or self._tall
        self._show_keys()

    def _show_places(self) -> None:
        mirror = self._session.mirror
        most = max(_LEAST_PLACES, self.size.height - len(ROWS) - _FRAME)
        self._picker.show(mirror.nodes.values(), mirror.tasks.get, most=most)

    @property
    def _tall(self) -> bool:
        """Whether there is room for everything at once."""
        return self.size.height >= len(ROWS) + _FRAME + 12

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        return action != "complete" or isinstance(self.focused, Input)

    def _show_keys(self) -> None:
        shown = sorted((action for action, _ in available(self) if action.footer), key=lambda a: a.footer)
        pieces = [
            piece
            for action in shown
            for piece in ((shown_key(action.keys[0]), "accent"), (f" {action.label}  ", "muted"))
        ]
        self.query_one("#form-keys", Lines).put(pieces)

    def _input(self, field: str) -> Input:
        return self.query_one(f"#field-{field}", Input)

    @property
    def dirty(self) -> bool:
        """Whether leaving would lose something that was typed."""
        return any(self._typed().get(field.id, "") != self._filled.get(field.id, "") for field in FIELDS)

    def _living(self) -> dict[str, int]:
        tasks = self._session.mirror.tasks.values()
        return {task["name"]: task["id"] for task in tasks if task["name"] and task["state"] not in ENDED}

    def _typed(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for field in FIELDS:
            entry = self.query_one(f"#field-{field.id}")
            if isinstance(entry, Input):
                found[field.id] = entry.value
            elif isinstance(entry, Flag):
                found[field.id] = "yes" if entry.ticked else ""
        return found

    def _check(self, *, everything: bool = False) -> Parsed:
        """Validate and show what is wrong; an untouched field is left in peace until submission."""
        typed = self._typed()
        names = self._living() if typed["after"] else {}
        mirror = self._session.mirror
        parsed = parse(typed, mirror.nodes, names, mirror.environments)
        for row in ROWS:
            wrong = [
                f"{field.label}: {text}" if len(row) > 1 else text
                for field in row
                if (text := parsed.errors.get(field.id, "")) and (everything or field.id in self._touched)
            ]
            label = self.query_one(f"#error-{row[0].id}", Label)
            label.update(clean("; ".join(wrong)))
            label.display = bool(wrong)
        self._preview.update(clean(preview(parsed.body)))
        self._picker.take(typed["target"], count_of(typed["gpus"]))
        return parsed

    def on_input_changed(self, event: Input.Changed) -> None:
        name = (event.input.id or "").removeprefix("field-")
        if event.value != self._filled.get(name, ""):
            self._touched.add(name)
        if name == "command" and "sweep" not in self._touched:
            self.query_one("#field-sweep", Flag).put(ticked=has_span(event.value))
        self._say("")
        self._check()

    def on_ticked(self, message: Ticked) -> None:
        self._touched.add(message.sender.removeprefix("field-"))
        self._check()

    def on_picked(self, message: Picked) -> None:
        """The matrix changed: the text follows."""
        target = self._input("target")
        target.value = message.targets
        target.cursor_position = len(message.targets)
        gpus = self._input("gpus")
        gpus.value = with_gpus(gpus.value, message.gpus)

    def on_input_submitted(self) -> None:
        self.action_submit()

    def _say(self, text: str) -> None:
        line = self.query_one("#form-error", Static)
        line.update(clean(text))
        line.display = bool(text)

    def action_form_next(self) -> None:
        self.focus_next(_ENTRIES)

    def action_form_previous(self) -> None:
        self.focus_previous(_ENTRIES)

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
            self.query_one(f"#field-{first}").focus()
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
        parts = [f"submitted {ids}", f"refused {refused}" if refused else "", *answer["warnings"]]
        self.dismiss("; ".join(filter(None, parts)))
