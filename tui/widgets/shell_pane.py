"""Shells beside the panels: one is seen, the others go on. The terminal is loaded with the first of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical

from tui.messages import ShellEnded, ShellLeft
from tui.plain import clean, fit
from tui.widgets.bars import Lines, pane_title, tab_title

if TYPE_CHECKING:
    from tui.terminal.channel import Connect
    from tui.terminal.messages import TerminalChanged, TerminalClosed, TerminalLeft
    from tui.terminal.widget import Terminal


class ShellPane(Vertical):
    """``show`` a shell by the name of its environment. It says when one ends and when one is left."""

    def __init__(self, connect: Callable[[str], Connect], *, id: str) -> None:
        super().__init__(id=id)
        self.current: str | None = None
        self._connect_to = connect
        self._heading = Lines(id="shell-title")
        self._terminals: dict[str, Terminal] = {}
        self._made = 0

    def compose(self) -> ComposeResult:
        yield self._heading

    def on_mount(self) -> None:
        self.display = False

    @property
    def shells(self) -> list[str]:
        """The environments whose shells are open."""
        return list(self._terminals)

    @property
    def release_key(self) -> str:
        """What takes the keyboard away from the one in sight."""
        return self._terminals[self.current].release_key if self.current is not None else ""

    async def show(self, name: str) -> None:
        """See the shell of this environment, a new one if there is none, and give it the keyboard."""
        from tui.terminal.widget import Terminal

        if name not in self._terminals:
            self._made += 1
            self._terminals[name] = Terminal(self._connect_to(name), id=f"shell-{self._made}")
            await self.mount(self._terminals[name])
        self.display = True
        self.current = name
        for each, terminal in self._terminals.items():
            terminal.display = each == name
        self._terminals[name].focus()
        self.show_title()

    def turn(self, step: int) -> None:
        """See another; the keyboard stays where it is."""
        names = self.shells
        if self.current in names:
            self.current = names[(names.index(self.current) + step) % len(names)]
            for each, terminal in self._terminals.items():
                terminal.display = each == self.current
            self.show_title()

    def hide(self) -> None:
        """Out of sight; they go on."""
        self.display = False

    async def end(self, name: str) -> None:
        """Hang up."""
        terminal = self._terminals.pop(name)
        await terminal.remove()
        if self.current == name:
            self.current = next(iter(self._terminals), None)
            if self.current is not None:
                self._terminals[self.current].display = True
        self.display = self.display and self.current is not None
        self.show_title()

    def show_title(self) -> None:
        """Which shells there are, and what the one in sight calls itself."""
        if self.current is None:
            self._heading.put()
            return
        width = self.size.width or self.app.size.width
        terminal = self._terminals[self.current]
        facts = " · ".join(filter(None, (str(terminal.state), clean(terminal.window_title))))
        names = [clean(name) for name in self._terminals]
        if len(names) == 1:
            facts = fit(facts, min(len(facts), max(0, width - len(names[0]) - 16)))
            self._heading.put(pane_title(f"Shell in {names[0]}", facts, width))
        else:
            names[0] = f"Shells in {names[0]}"
            self._heading.put(tab_title(names, self.shells.index(self.current), str(terminal.state), width))

    def on_resize(self) -> None:
        self.call_after_refresh(self.show_title)

    # what terminals say

    def _whose(self, sender: str) -> str | None:
        return next((name for name, each in self._terminals.items() if each.id == sender), None)

    def on_terminal_left(self, message: TerminalLeft) -> None:
        message.stop()
        self.post_message(ShellLeft())

    def on_terminal_changed(self, message: TerminalChanged) -> None:
        message.stop()
        name = self._whose(message.sender)
        if name is not None and (code := self._terminals[name].exit_code) is not None:
            self._ended(name, code)
        self.show_title()

    def on_terminal_closed(self, message: TerminalClosed) -> None:
        message.stop()
        if (name := self._whose(message.sender)) is not None:
            self._ended(name, None)

    def _ended(self, name: str, code: int | None) -> None:
        self.run_worker(self._take_away(name, code), group=f"end-{name}")

    async def _take_away(self, name: str, code: int | None) -> None:
        if name in self._terminals:
            await self.end(name)
            self.post_message(ShellEnded(name, code))
