"""What tasks run in: every environment, what is done to it, and shells in their containers below."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType

from hakuriver.views import EnvironmentView
from tui.actions import Scope, bindings, shown_key
from tui.environment_catalog import ENVIRONMENT_COLUMNS, ENVIRONMENT_GRAMMAR
from tui.environments import EnvironmentRow, environment_problem
from tui.filters import Grammar
from tui.live import Changes
from tui.messages import Chosen, ShellEnded, ShellLeft
from tui.plain import clean
from tui.rows import Rows
from tui.screens.environing import EnvironmentActing
from tui.screens.tables import TableScreen
from tui.session import Session
from tui.widgets.shell_pane import ShellPane
from tui.widgets.table import Table

if TYPE_CHECKING:
    from tui.terminal.channel import Channel, Connect

_AROUND = 4
"""Lines that are neither table nor shell: header, footer, two titles."""
_LEAST = 3
_STEP = 3
_NONE = "no environment yet: n makes one from an image, a from a container"


class Environments(EnvironmentActing, TableScreen):
    VIEW = "environments"
    NOUN = "Environments"
    SCOPES: ClassVar[frozenset[Scope]] = EnvironmentActing.SCOPES | {Scope.SHELLS}
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.SHELLS)]
    GRAMMAR: ClassVar[Grammar[Any] | None] = ENVIRONMENT_GRAMMAR
    PROBLEM: ClassVar[Callable[[Any], bool] | None] = staticmethod(environment_problem)

    def __init__(self, session: Session) -> None:
        rows: Rows[str, EnvironmentRow] = Rows(lambda row: row.view["name"], ENVIRONMENT_COLUMNS, sort="name")
        table = Table(rows, id="environments", empty=lambda: self.waiting_text(_NONE))
        super().__init__(session, table)
        self.pane = ShellPane(self._connect_to, id="shell-pane")
        self._moved = 0
        self._height: int | None = None

    def compose_body(self) -> ComposeResult:
        yield from super().compose_body()
        yield self.pane

    def selected_environments(self) -> list[EnvironmentView]:
        return [row.view for row in self.rows.selected()]

    def current_environment(self) -> EnvironmentView | None:
        row: EnvironmentRow | None = self.rows.current
        return None if row is None else row.view

    def refresh_data(self, changes: Changes) -> None:
        if changes.reset or changes.environments:
            new, old = self.session.environments(), self.rows.all
            changed: dict[str, EnvironmentRow | None] = {
                name: row for name, row in new.items() if old.get(name) != row
            }
            changed |= dict.fromkeys(old.keys() - new.keys())
            if changed:
                self._table.update_rows(changed)
        self._fit()
        self.show_title()

    def on_chosen(self, message: Chosen) -> None:
        self.hakuriver.open_environment(str(message.key))

    # shells

    def _connect_to(self, name: str) -> Connect:
        async def connect(rows: int, columns: int) -> Channel:
            return await self.session.remote.shell(name, rows, columns)

        return connect

    async def open_shell(self, name: str) -> None:
        """See the shell in an environment's container, and type in it."""
        if name not in self.pane.shells:
            self.session.note_shell(name)
        await self.pane.show(name)
        self._table.go_to(name)
        self._note_shells()

    def _fit(self) -> None:
        """Beside shells the table has the lines that it needs, up to two fifths; the border can be moved."""
        body = self.size.height - _AROUND
        wanted = min(len(self.rows) + 2, body * 2 // 5) - self._moved * _STEP
        height = max(_LEAST, min(wanted, body - _LEAST)) if self.pane.display else None
        if height != self._height:
            self._height = height
            self._table.styles.height = "1fr" if height is None else height

    def _note_shells(self) -> None:
        self.session.shells = self.pane.shells
        self._fit()
        self.show_footer()

    def on_shell_left(self, _: ShellLeft) -> None:
        self._table.focus()

    def on_shell_ended(self, message: ShellEnded) -> None:
        code = f" with exit code {message.code}" if message.code else ""
        self.say(f"the shell in {clean(message.environment)} ended{code}")
        self._note_shells()
        self._table.focus()

    @property
    def tabs(self) -> tuple[str, ...]:
        return tuple(self.pane.shells) if self.pane.display else ()

    def turn_to(self, step: int) -> None:
        self.pane.turn(step)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("shell_grow", "shell_shrink", "shell_end"):
            return self.pane.display
        return super().check_action(action, parameters)

    def action_shell_grow(self) -> None:
        self._move_border(1)

    def action_shell_shrink(self) -> None:
        self._move_border(-1)

    def _move_border(self, step: int) -> None:
        before, self._moved = self._moved, self._moved + step
        height = self._height
        self._fit()
        if self._height == height:
            self._moved = before  # it can't go further

    def on_resize(self) -> None:
        super().on_resize()
        self.call_after_refresh(self._fit)

    def action_shell_end(self) -> None:
        if (name := self.pane.current) is None:
            return

        async def end() -> str:
            await self.pane.end(name)
            self._note_shells()
            return f"the shell in {name} is hung up"

        self.confirm(
            f"End the shell in {name}?", [], yes="end", note="What runs in it is ended with it.", work=end
        )

    def step_back(self) -> bool:
        if super().step_back():
            return True
        if self.pane.display:
            self.pane.hide()
            self._fit()
            self.show_footer()
            return True
        return False

    @property
    def typing_keys(self) -> tuple[tuple[str, str], ...]:
        focused = self.focused
        if focused is None or focused.parent is not self.pane:
            return super().typing_keys
        key = shown_key(self.pane.release_key)
        return (
            (key, "leaves, it goes on"),
            (f"{key} {key}", "sends it"),
            ("⇧pgup", "what scrolled away"),
            ("exit", "ends"),
        )
