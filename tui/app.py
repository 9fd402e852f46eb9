"""The application: screens by name, the feed, and the actions that work everywhere."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

from textual import events
from textual.binding import BindingType
from textual.worker import Worker

from hakuriver.endpoint import Endpoint
from hakuriver.views import TaskView
from tui.actions import Scope, available, bindings
from tui.display.frame_diff import DiffedApp
from tui.keyboard import Keyboard, KeyPassed
from tui.live import Changes, Coalescer, Feed
from tui.messages import ClusterChanged
from tui.remote import Remote
from tui.screens.base import ClusterScreen
from tui.screens.overview import Overview
from tui.session import Session
from tui.terminal.greedy import takes_keys
from tui.themes import ansi_colors, river, river_sixteen

_NOTICE_SECONDS = 6.0
_HERE = Path(__file__).parent


class HakuRiverApp(DiffedApp[int], inherit_bindings=False):
    """One cluster on one terminal."""

    CSS_PATH = [_HERE / "styles" / "base.tcss", *sorted((_HERE / "screens").glob("*.tcss"))]  # noqa: RUF012
    TITLE = "HakuRiver"
    DEFAULT_MODE = "overview"
    ENABLE_COMMAND_PALETTE = False
    SCOPES: ClassVar[frozenset[Scope]] = frozenset({Scope.APP})
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.APP)]

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        for theme in (river(), river_sixteen()):
            self.register_theme(theme)
        sixteen = self.console.color_system == "standard"
        self.theme = "river-16" if sixteen else "river"
        self.ansi_theme_dark = ansi_colors(sixteen=sixteen)
        self.session = Session(Remote(endpoint))
        self._feed: Feed | None = None
        self._feeding: Worker[None] | None = None
        for name in ("overview", "nodes", "gpus", "tasks", "environments"):
            self.add_mode(name, partial(self._made, name))
        self._view = self._previous = "overview"
        self._notice: tuple[float, str, str] = (0.0, "", "")
        self._held: set[int] = set()
        self._keyboard = Keyboard(
            super().on_event,
            lambda: self.focused or self.screen,
            self._keyboard_moves,
            lambda seconds, act: asyncio.get_running_loop().call_later(seconds, self.call_later, act),
        )
        self._local = Coalescer(self._notify_changes)
        self.session.changed = self._local.add

    def on_mount(self) -> None:
        self.set_interval(1.0, self._tick)
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """After the first paint."""
        if not gc.isenabled():
            gc.freeze()  # modules stay: the collector need not look through them again and again
            gc.enable()
        self._start_feed()

    def _start_feed(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()
        self._feed = Feed(self.session.mirror, self.session.remote, self._notify_changes)
        self._feeding = self.run_worker(self._feed.run(), group="feed")

    def _notify_changes(self, changes: Changes) -> None:
        self.post_message(ClusterChanged(changes))

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key | events.Paste) and not event.is_forwarded:
            await self._keyboard.typed(event)
        else:
            await super().on_event(event)

    async def on_key_passed(self, message: KeyPassed) -> None:
        await self._keyboard.passed(message.number)

    async def on_keyboard_moved(self) -> None:
        await self._keyboard.go_on()

    def _keyboard_moves(self) -> bool:
        stack = self.screen_stack
        if not stack or not stack[-1].is_mounted:
            return bool(stack)
        return isinstance(stack[-1], ClusterScreen) and stack[-1].keyboard_moves

    @property
    def front(self) -> ClusterScreen | None:
        """The screen in front, if it draws from the mirror and is made already; it draws all when it is."""
        stack = self.screen_stack  # empty while the program ends
        screen = stack[-1] if stack else None
        return screen if isinstance(screen, ClusterScreen) and screen.is_mounted else None

    def on_cluster_changed(self, message: ClusterChanged) -> None:
        if (screen := self.front) is not None:
            screen.apply(message.changes)
            held = set(self.session.mirror.held)
            if held != self._held:
                self._held = held
                self.show_notice()

    def _tick(self) -> None:
        if (screen := self.front) is None:
            return
        if not self.session.frozen:
            screen.tick()
        if self.session.mirror.status.link != "live":
            screen.refresh_frame()
        self.show_notice()

    async def on_unmount(self) -> None:
        self._local.close()
        await self.session.remote.aclose()

    # screens

    def _made(self, name: str) -> ClusterScreen:
        if name == "overview":
            return Overview(self.session)
        if name == "environments":
            from tui.screens.environments import Environments

            return Environments(self.session)
        from tui.screens import tables

        return {"nodes": tables.Nodes, "gpus": tables.Gpus, "tasks": tables.Tasks}[name](self.session)

    async def go_to(self, name: str) -> ClusterScreen:
        """Show a view; whatever lies over the present one is closed. Views live on, each in its own mode."""
        while len(self.screen_stack) > 1:
            await self.pop_screen()
        if name != self._view:
            self._previous, self._view = self._view, name
            await self.switch_mode(name)
        return cast(ClusterScreen, self.screen)

    async def open_shell(self, name: str) -> None:
        from tui.screens.environments import Environments

        screen = await self.go_to("environments")
        assert isinstance(screen, Environments)
        await screen.open_shell(name)

    async def open_terminal(self, name: str) -> None:
        from tui.handover import cli, hand_over, possible

        if not possible(self):
            await self.open_shell(name)
            return
        self.session.note_shell(name)
        argv, env = cli(self.session.remote.endpoint, "env", "shell", name)
        if wrong := await hand_over(self, argv, env):
            self.notice(wrong, "bad")

    async def show_tasks(self, filtered: str) -> None:
        """The task view with this filter."""
        screen = await self.go_to("tasks")
        self.call_after_refresh(screen.set_filter, filtered)

    def open_node(self, name: str) -> None:
        from tui.screens.node import NodeScreen

        if name in self.session.mirror.nodes:
            self.push_screen(NodeScreen(self.session, name))

    def open_task(self, task: int) -> None:
        from tui.screens.task import TaskScreen

        if (found := self.session.mirror.tasks.get(task)) is not None:
            self.push_screen(TaskScreen(self.session, found))

    def open_logs(self, task: TaskView) -> None:
        from tui.screens.task import LogScreen

        self.push_screen(LogScreen(self.session, task))

    def open_environment(self, name: str) -> None:
        from tui.screens.environment import EnvironmentScreen

        if name in self.session.mirror.environments:
            self.push_screen(EnvironmentScreen(self.session, name))

    def open_form(self, task: TaskView | None, *, container: str = "") -> None:
        from tui.form import from_task
        from tui.screens.submit import SubmitForm

        def answered(line: str | None) -> None:
            if line:
                self.notice(line, "good")

        filled = from_task(task) if task else {"container": container} if container else {}
        self.push_screen(SubmitForm(self.session, filled), answered)

    # what happened

    def do(self, work: Coroutine[Any, Any, str]) -> None:
        """Run an act in the background; its one line of outcome becomes the notice."""

        async def run() -> None:
            self.notice(await work)

        self.run_worker(run(), group="acts")

    def notice(self, text: str, tone: str = "info") -> None:
        """Say something for a few seconds."""
        self._notice = (time.monotonic() + _NOTICE_SECONDS, text, tone)
        self.show_notice()

    def show_notice(self) -> None:
        """The undo window while it is open, else the last notice while it is fresh."""
        if (screen := self.front) is None:
            return
        held = self.session.still_held()
        until, text, tone = self._notice
        if held:
            names = ", ".join(map(str, list(held)[:8])) + ("…" if len(held) > 8 else "")
            screen.put_notice(
                f"killing {names} in {min(60, max(1, round(min(held.values()))))} s: u takes it back", "warn"
            )
        else:
            screen.put_notice(text if time.monotonic() < until else "", tone)
        screen.show_footer()

    # actions

    async def action_overview(self) -> None:
        await self.go_to("overview")

    async def action_nodes(self) -> None:
        await self.go_to("nodes")

    async def action_tasks(self) -> None:
        await self.go_to("tasks")

    async def action_environments(self) -> None:
        await self.go_to("environments")

    async def action_last_view(self) -> None:
        await self.go_to(self._previous)

    def action_command(self) -> None:
        screen = self.screen
        if isinstance(screen, ClusterScreen):
            names = [action.command for action, _ in available(screen)]
            screen.ask("command", ":", "", lambda: names)

    def action_palette(self) -> None:
        self._open_list(palette=True)

    def action_help(self) -> None:
        self._open_list(palette=False)

    def _open_list(self, *, palette: bool) -> None:
        from tui.screens.lists import ActionList, Entry

        def answered(entry: Entry | None) -> None:
            if entry is not None:
                self.run_worker(self.run_action(entry.action.id, entry.node), group="acts")

        self.push_screen(ActionList(list(available(self.screen)), palette=palette), answered)

    def action_action_log(self) -> None:
        from tui.screens.lists import ActionLog

        self.push_screen(ActionLog(self.session.acts, self.copy_to_clipboard))

    async def action_back(self) -> None:
        screen = self.screen
        if isinstance(screen, ClusterScreen) and screen.step_back():
            return
        if len(self.screen_stack) > 1:
            await self.pop_screen()

    async def action_quit(self) -> None:
        if len(self.screen_stack) > 1:
            await self.pop_screen()
        else:
            self.action_exit()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A shell that has the keyboard gets every key, also those that we would take first."""
        stack = self.screen_stack
        if stack and takes_keys(stack[-1].focused):
            return False
        return super().check_action(action, parameters)

    def action_exit(self) -> None:
        from tui.screens.confirm import Confirm, Question
        from tui.screens.submit import SubmitForm

        reasons = []
        if held := self.session.still_held():
            reasons.append(
                f"the kill of {', '.join(map(str, held))} is carried out in a few seconds all the same"
            )
        if shells := self.session.shells:
            reasons.append(f"the shell in {', '.join(shells)} ends, with what runs in it")
        if any(isinstance(screen, SubmitForm) and screen.dirty for screen in self.screen_stack):
            reasons.append("a form holds a task that was not submitted")
        if isinstance(self.screen, Confirm):
            return
        if not reasons:
            self.exit(0)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.exit(0)

        self.push_screen(Confirm(Question("Quit?", reasons, yes="quit", no="stay")), answered)

    def action_freeze(self) -> None:
        self.session.frozen = not self.session.frozen
        if (screen := self.front) is not None:
            screen.apply(Changes(reset=True, link=True))

    def action_refetch(self) -> None:
        if self.session.mirror.status.link == "live":
            self.session.mirror.cursor = None
            self._start_feed()
            self.notice("fetching everything again")
        elif self._feed is not None:
            self._feed.retry_now()

    def action_redraw(self) -> None:
        self.forget_frame()
        self.screen.refresh(layout=True)

    def action_theme(self) -> None:
        names = sorted(self.available_themes)
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        self.notice(f"theme {self.theme}")

    def action_next_pane(self) -> None:
        self.screen.focus_next()

    def action_previous_pane(self) -> None:
        self.screen.focus_previous()


def run(endpoint: Endpoint) -> int:
    """The TUI on this terminal until somebody quits; returns the exit status."""
    from tui.display import alt_keys

    alt_keys.install()
    gc.disable()  # until the first paint
    return HakuRiverApp(endpoint).run() or 0
