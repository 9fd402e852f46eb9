"""Programs on a local pty, as a channel; and an app with nothing but a terminal in it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.message import Message
from textual.pilot import Pilot
from textual.widgets import Static

from hakuriver.errors import HakuRiverError
from tests.tui.use import until
from tui.terminal.channel import Channel, Ended, Event, Output
from tui.terminal.greedy import takes_keys
from tui.terminal.messages import TerminalClosed, TerminalLeft
from tui.terminal.widget import Terminal
from tui.themes import ansi_colors

SHELL = ("busybox", "sh")
_ENVIRON = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PS1": "$ ", "PATH": os.environ["PATH"]}


class Pty:
    """A program on a terminal of this machine. Reads only when somebody asks: the kernel makes it wait."""

    def __init__(self, argv: Sequence[str], rows: int, columns: int) -> None:
        self.received = 0
        self.closed = False
        self._reaping: asyncio.Future[tuple[int, int]] | None = None
        self.sizes = [(rows, columns)]
        self._main, other = pty.openpty()
        self._set_size(rows, columns)
        pid = os.fork()
        if pid == 0:
            _become_its_session(other)
            os.execvpe(argv[0], list(argv), _ENVIRON)
        os.close(other)
        os.set_blocking(self._main, False)
        self.pid = pid

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def receive(self) -> Event:
        await self._ready(write=False)
        try:
            data = os.read(self._main, 65536)
        except OSError:  # what a pty says when nobody has its other side any more
            data = b""
        if data:
            self.received += len(data)
            return Output(data)
        return Ended(os.waitstatus_to_exitcode(await self._status()))

    async def send(self, data: bytes) -> None:
        while data:
            await self._ready(write=True)
            with suppress(BlockingIOError):
                data = data[os.write(self._main, data) :]

    async def resize(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))
        self._set_size(rows, columns)

    async def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._status()
        os.close(self._main)
        self.closed = True

    async def _status(self) -> int:
        """How it ended, once it has: reaped once, whoever asks and gives up asking."""
        if self._reaping is None:
            self._reaping = asyncio.ensure_future(asyncio.to_thread(os.waitpid, self.pid, 0))
        return (await asyncio.shield(self._reaping))[1]

    async def _ready(self, *, write: bool) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        add, remove = (
            (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
        )
        add(self._main, ready.set)
        try:
            await ready.wait()
        finally:
            remove(self._main)


def _become_its_session(terminal: int) -> None:
    """``os.login_tty``, which Python 3.11 doesn't have yet."""
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for standard in range(3):
        os.dup2(terminal, standard)


class Scripted:
    """A channel whose events a test makes, and that remembers what was sent."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.sent = b""
        self.sizes: list[tuple[int, int]] = []
        self.closed = False

    async def receive(self) -> Event:
        return await self.events.get()

    async def send(self, data: bytes) -> None:
        self.sent += data

    async def resize(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))

    async def close(self) -> None:
        self.closed = True

    def says(self, data: bytes) -> None:
        self.events.put_nowait(Output(data))


Behind = Channel | Sequence[str] | HakuRiverError
"""What the terminal is connected to: a channel, a program to run, or nothing and why."""


class ShellApp(App[None]):
    """A terminal under a title line, with a binding that the app takes first and one that it doesn't."""

    BINDINGS = [  # noqa: RUF012
        Binding("ctrl+q", "note('ctrl+q')", priority=True),
        Binding("j", "note('j')"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, channel: Behind) -> None:
        super().__init__()
        self.ansi_theme_dark = ansi_colors(sixteen=self.console.color_system == "standard")
        self.noted: list[str] = []
        self.heard: list[Message] = []
        self.started_at: tuple[int, int] | None = None
        self._channel = channel

    async def _connect(self, rows: int, columns: int) -> Channel:
        self.started_at = (rows, columns)
        if isinstance(self._channel, HakuRiverError):
            raise self._channel
        if isinstance(self._channel, Sequence):
            self.channel: Channel = Pty(self._channel, rows, columns)
        else:
            self.channel = self._channel
        return self.channel

    def compose(self) -> ComposeResult:
        yield Static("above", markup=False)
        yield Terminal(self._connect, id="shell")

    def on_mount(self) -> None:
        self.query_one(Terminal).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not takes_keys(self.focused)

    def action_note(self, key: str) -> None:
        self.noted.append(key)

    def on_terminal_left(self, message: TerminalLeft) -> None:
        self.heard.append(message)

    def on_terminal_closed(self, message: TerminalClosed) -> None:
        self.heard.append(message)


@dataclass
class Shell:
    """Somebody in front of it."""

    app: ShellApp
    pilot: Pilot[None]
    terminal: Terminal = field(init=False)

    def __post_init__(self) -> None:
        self.terminal = self.app.query_one(Terminal)

    @property
    def lines(self) -> list[str]:
        """What the terminal widget shows."""
        strips = self.app.screen._compositor.render_strips()
        region = self.terminal.content_region
        return [strip.crop(region.x, region.right).text for strip in strips[region.y : region.bottom]]

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)

    async def sees(self, text: str) -> None:
        try:
            await until(lambda: text in self.text)
        except TimeoutError:
            raise AssertionError(f"{text!r} not on the screen:\n{self.text}") from None

    def type(self, text: str) -> None:
        """Text at once, as fast as a terminal sends it."""
        for character in text:
            self.key({"\n": "enter", "\x1b": "escape"}.get(character, character), character)

    def key(self, name: str, character: str | None = None) -> None:
        event = events.Key(name, character)
        event.set_sender(self.app)
        assert self.app._driver is not None
        self.app._driver.send_message(event)

    async def press(self, *keys: str) -> None:
        for name in keys:
            self.key(name)
        await self.pilot.pause()


@asynccontextmanager
async def shell(channel: Behind = SHELL, *, size: tuple[int, int] = (80, 25)) -> AsyncIterator[Shell]:
    """A program in an app whose terminal has one row less than it."""
    app = ShellApp(channel)
    async with app.run_test(size=size) as pilot:
        made = Shell(app, pilot)
        await until(lambda: app.started_at is not None)
        yield made
