"""One environment: everything known about it, and its versions."""

from __future__ import annotations

import time
from collections.abc import Callable
from textwrap import wrap
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType

from hakuriver.errors import HakuRiverError
from hakuriver.views import EnvironmentView, VersionView
from tui.actions import Scope, bindings
from tui.environment_catalog import VERSION_COLUMNS, VERSION_GRAMMAR
from tui.environments import facts_of
from tui.filters import Grammar
from tui.live import Changes
from tui.messages import Chosen, Highlighted
from tui.plain import clean
from tui.rows import Rows
from tui.screens.environing import EnvironmentActing
from tui.screens.overview import task_facts
from tui.session import Session
from tui.widgets.bars import Lines, pane_title
from tui.widgets.table import AnyTable, Table
from tui.widgets.tones import Piece

_LABEL = 11
_ASK_AGAIN = 2.0
"""Seconds between two looks at which tasks need its versions, at least."""


class EnvironmentScreen(EnvironmentActing):
    VIEW = "environments"
    SCOPES: ClassVar[frozenset[Scope]] = EnvironmentActing.SCOPES | {Scope.VERSIONS}
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.VERSIONS)]
    GRAMMAR: ClassVar[Grammar[Any] | None] = VERSION_GRAMMAR
    PROBLEM: ClassVar[Callable[[Any], bool] | None] = None

    def __init__(self, session: Session, name: str) -> None:
        super().__init__(session)
        self.environment_name = name
        self._heading = Lines(id="environment-title")
        self._facts = Lines(id="facts")
        self._versions_title = Lines(id="versions-title")
        self._versions: Table[int, VersionView] = Table(
            Rows(lambda version: version["version"], VERSION_COLUMNS, sort="version"),
            id="versions",
            empty=lambda: self.waiting_text("no version yet: p packs the container"),
        )
        self._known: tuple[object, ...] = ()
        self._stale = True
        self._asked = 0.0

    def compose_body(self) -> ComposeResult:
        yield self._heading
        yield self._facts
        yield self._versions_title
        yield self._versions

    def on_mount(self) -> None:
        self._versions.focus()

    @property
    def table(self) -> AnyTable | None:
        return self._versions

    def current_environment(self) -> EnvironmentView | None:
        return self.session.mirror.environments.get(self.environment_name)

    def selected_environments(self) -> list[EnvironmentView]:
        view = self.current_environment()
        return [] if view is None else [view]

    def chosen_version(self) -> VersionView | None:
        return self._versions.rows.current

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "version_remove":
            return self._versions.rows.any_selected
        if action == "problems":
            return False
        return super().check_action(action, parameters)

    def action_version_remove(self) -> None:
        name, versions = self.environment_name, self._versions.rows.selected()
        self.confirm(
            f"Delete {len(versions)} version{'s' * (len(versions) != 1)} of {name} on {self.session.label}?",
            [f"{each['version']}  {each['note']}" for each in versions],
            yes="delete",
            note="Their tarballs are gone then. One that a living task needs stays.",
            work=lambda: self.session.remove_versions(name, versions),
        )

    # what is known

    def refresh_data(self, changes: Changes) -> None:
        view = self.current_environment()
        known = (view["current"], view["versions"], view["size"]) if view else ()
        if known != self._known or changes.reset:
            self._known = known
            self._ask()
        elif changes.tasks and any(map(self._is_in, changes.tasks)):
            self._stale = True
        self._show_facts()

    def _is_in(self, task: int) -> bool:
        found = self.session.mirror.tasks.get(task)
        return found is not None and (found["container"] or "").partition("@")[0] == self.environment_name

    def _ask(self) -> None:
        self._asked, self._stale = time.monotonic(), False
        self.run_worker(self._fetch(), group="versions", exclusive=True)

    async def _fetch(self) -> None:
        try:
            found = await self.session.remote.versions(self.environment_name)
        except HakuRiverError as error:
            self.say(error.message, "bad")
            return
        self._versions.load(found)
        self._show_facts()

    def tick(self) -> None:
        if self._stale and time.monotonic() - self._asked > _ASK_AGAIN:
            self._ask()
        self._versions.tick()
        self._show_facts()

    def _show_facts(self) -> None:
        row, width = self.session.environments().get(self.environment_name), self.size.width
        state = "" if row is not None else "gone"
        self._heading.put(pane_title(f"Environment {clean(self.environment_name)}", state, width))
        facts = facts_of(row) if row is not None else []
        self._facts.put(*(line for fact in facts for line in _lines(*fact, width)))
        self._versions_title.put(pane_title("Versions", task_facts(self, self._versions), width))

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_facts)

    def on_highlighted(self, _: Highlighted) -> None:
        self._show_facts()
        self.show_footer()

    def on_chosen(self, message: Chosen) -> None:
        found = f"env:{self.environment_name}@{message.key}"
        self.app.run_worker(self.hakuriver.show_tasks(found), group="views")  # we can't await our own end


def _lines(label: str, text: str, tone: str, width: int) -> list[list[Piece]]:
    """A fact; a problem says what to type, so all of it is shown."""
    parts = wrap(text, max(20, width - _LABEL - 2)) or [""]
    return [
        [(f" {label if at == 0 else '':>{_LABEL - 2}}  ", "muted"), (part, tone)]
        for at, part in enumerate(parts)
    ]
