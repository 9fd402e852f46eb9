"""A screen that has environments selected, and what can be done to them. It asks where it must."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

from textual.binding import BindingType

from hakuriver.environments import check_name
from hakuriver.errors import UsageError
from hakuriver.views import EnvironmentView, VersionView
from tui.actions import Scope, bindings
from tui.plain import clean
from tui.screens.acting import ActingScreen

_ONE = frozenset({"env_shell", "env_terminal", "env_pack", "env_rollback", "env_tasks", "env_task"})
_MANY = frozenset({"env_start_stop", "env_prefetch", "env_delete"})
_BETWEEN = 2
"""Versions that must be there to go back to one."""


class EnvironmentActing(ActingScreen):
    """Verbs act on ``selected_environments``; those for one only, on ``current_environment``."""

    SCOPES: ClassVar[frozenset[Scope]] = ActingScreen.SCOPES | {Scope.ENVIRONMENTS}
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.ENVIRONMENTS)]

    _to_pack = ""

    # what subclasses say

    def selected_environments(self) -> list[EnvironmentView]:
        return []

    def current_environment(self) -> EnvironmentView | None:
        return None

    def chosen_version(self) -> VersionView | None:
        """The version under the cursor, where versions are shown."""
        return None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "new":
            return False  # its key makes an environment here
        current = self.current_environment()
        if action == "env_rollback":
            return current is not None and current["versions"] >= _BETWEEN
        if action in _ONE:
            return current is not None
        if action in _MANY:
            return bool(self.selected_environments())
        return super().check_action(action, parameters)

    # verbs

    def action_env_shell(self) -> None:
        if (view := self.current_environment()) is not None:
            self._when_running(view, lambda: self.hakuriver.open_shell(view["name"]))

    def action_env_terminal(self) -> None:
        if (view := self.current_environment()) is not None:
            self._when_running(view, lambda: self.hakuriver.open_terminal(view["name"]))

    def _when_running(self, view: EnvironmentView, shell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A shell needs a container that runs: of one that doesn't, ask whether it should."""
        name = view["name"]

        def begin() -> None:
            self.app.run_worker(shell(), group="shells")

        if view["container"] == "missing":
            self.say(f"{name} has no container: n makes one, with no image from its current version", "bad")
        elif view["container"] == "stopped" and name not in self.session.shells:
            self.confirm(
                f"The container of {name} is stopped. Start it on {self.session.label}?",
                [],
                yes="start",
                note="",
                work=lambda: self.session.start([name], begin),
            )
        else:
            begin()

    def action_env_new(self) -> None:
        from tui.screens.ask import Asked, AskForm

        known = self.session.mirror.environments
        bases = sorted({view["base"] for view in known.values() if view["base"]})

        def name(text: str) -> str:
            found = known.get(text)
            taken = found is not None and found["container"] in ("running", "stopped")
            return _wrong_name(text) or (f"{text} has a container already" if taken else "")

        asked = (
            Asked("name", "Name", "for example torch-2.4", name),
            Asked("image", "Image", "python:3.12-slim; nothing: its current version", _any, bases),
        )

        def answered(found: dict[str, str] | None) -> None:
            if found is not None:
                self._begun(f"{found['name']} is being made")
                self.do(self.session.create(found["name"], found["image"]))

        note = "An image that isn't on the host is pulled."
        self.app.push_screen(AskForm(f"New environment on {self.session.label}", asked, note), answered)

    def action_env_adopt(self) -> None:
        from tui.screens.ask import Asked, AskForm

        def container(text: str) -> str:
            return "" if text else "which container? its name or id in the host's engine"

        asked = (
            Asked("container", "Container", "its name or id in the host's engine", container),
            Asked("name", "Name", "of the environment: torch-2.4", _wrong_name),
        )

        def answered(found: dict[str, str] | None) -> None:
            if found is not None:
                self._begun(f"{found['name']} is being made")
                self.do(self.session.adopt(found["name"], found["container"]))

        self.app.push_screen(
            AskForm("Environment like a container", asked, "That one stays as it is."), answered
        )

    def action_env_pack(self) -> None:
        if (view := self.current_environment()) is None:
            return
        if view["container"] == "missing":
            self.say(f"{view['name']} has no container: n makes one", "bad")
            return
        self._to_pack = view["name"]
        self.ask("pack", clean(f"pack {view['name']}; what is new?"), "", list)

    def answered(self, kind: str, text: str) -> None:
        if kind == "pack":
            self._begun(f"{self._to_pack} is being packed")
            self.do(self.session.pack(self._to_pack, text.strip()))
        else:
            super().answered(kind, text)

    def action_env_start_stop(self) -> None:
        self.do(self.session.start_or_stop(self.selected_environments()))

    def action_env_prefetch(self) -> None:
        for view in self.selected_environments():
            if view["current"] is None:
                self.say(f"{view['name']} was never packed", "bad")
            else:
                self._begun(f"{view['name']} is being loaded on the nodes")
                self.do(self.session.prefetch(view["name"]))

    def action_env_rollback(self) -> None:
        if (view := self.current_environment()) is None:
            return
        name, chosen = view["name"], self.chosen_version()
        if chosen is None:
            self.confirm(
                f"Give new tasks in {name} the version before {view['current']} on {self.session.label}?",
                [],
                yes="roll back",
                note="Nothing is deleted; rolling forward is the same, to a newer version.",
                work=lambda: self.session.rollback(name, None),
            )
        elif chosen["current"]:
            self.say(f"{chosen['version']} is what new tasks get already")
        else:
            self.do(self.session.rollback(name, chosen["version"]))

    def action_env_delete(self) -> None:
        views = self.selected_environments()
        names = [view["name"] for view in views]
        self.confirm(
            f"Delete the container{'s' * (len(names) != 1)} of {', '.join(names)} on {self.session.label}?",
            [_kept(view) for view in views],
            yes="delete",
            note="What was changed in it and not packed is lost. Versions stay, tasks go on using them.",
            work=lambda: self.session.delete_environments(names),
        )

    async def action_env_tasks(self) -> None:
        if (view := self.current_environment()) is not None:
            await self.hakuriver.show_tasks(f"env:{view['name']}")

    def action_env_task(self) -> None:
        if (view := self.current_environment()) is not None:
            self.hakuriver.open_form(None, container=view["name"])

    def _begun(self, text: str) -> None:
        """What takes long shows in its row; here, that it was asked for."""
        self.say(f"{text}: its row says how far")

    # asking

    def confirm(
        self,
        title: str,
        lines: Sequence[str],
        *,
        yes: str,
        note: str,
        work: Callable[[], Coroutine[Any, Any, str]],
    ) -> None:
        """Do it only if somebody says yes; marks are gone then."""
        from tui.screens.confirm import Confirm, Question

        def answered(sure: bool | None) -> None:
            if sure:
                self.do(work())
                if self.table is not None:
                    self.table.rows.marks.clear()
                    self.table.repaint()

        self.app.push_screen(Confirm(Question(title, list(lines), yes=yes, note=note)), answered)


def _wrong_name(text: str) -> str:
    try:
        check_name(text)
    except UsageError as error:
        return error.message
    return ""


def _any(_: str) -> str:
    return ""


def _kept(view: EnvironmentView) -> str:
    count = view["versions"]
    packed = f"{count} version{'s' * (count != 1)} kept" if count else "NEVER PACKED: nothing is kept"
    return f"{view['name']:<20} {view['container']:<9} {packed}"
