"""A program's terminal as a widget: keys, mouse and pastes go to the program, its screen is drawn here."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.timer import Timer

from tui.actions import shown_key
from tui.plain import clean
from tui.terminal.bittty_term import make_emulator
from tui.terminal.channel import Connect
from tui.terminal.keys import encoded, pasted
from tui.terminal.messages import TerminalChanged, TerminalClosed, TerminalLeft
from tui.terminal.mouse import NO_BUTTON, Did, Wheel, report, wheel
from tui.terminal.paint import line
from tui.terminal.pump import Pump, State
from tui.terminal.stream import Mouse, Rgb
from tui.terminal.view import View
from tui.widgets.tones import Drawn, Piece

RELEASE_KEY = "ctrl+right_square_bracket"
_FRAME_SECONDS = 0.05
_TWICE_SECONDS = 0.3
"""How quickly the release key is pressed twice by somebody who means it for the program."""
_WHEEL_ROWS = 3
_DIMMED = Style(dim=True)
_CLOSING_KEYS = ("enter", "escape", "q")


class Terminal(Drawn, can_focus=True):
    """A terminal of exactly our size. It connects when it gets a size, and lets go when it is removed."""

    ALLOW_SELECT: ClassVar[bool] = False
    DEFAULT_CSS = "Terminal { width: 1fr; height: 1fr; }"

    def __init__(self, connect: Connect, *, id: str, release_key: str = RELEASE_KEY) -> None:
        super().__init__(id=id)
        self.release_key = release_key
        self._connect = connect
        self._pump: Pump | None = None
        self._view: View | None = None
        self._lines: dict[int, tuple[Style, Strip]] = {}
        self._frame: Timer | None = None
        self._painted = 0.0
        self._leaving: Timer | None = None
        self._pointer = (-1, -1)
        self._said: tuple[object, ...] = ()

    # what others may know

    @property
    def state(self) -> State:
        return State.CONNECTING if self._pump is None else self._pump.state

    @property
    def exit_code(self) -> int | None:
        """The program's, once it has ended; None when nobody knows."""
        return None if self._pump is None else self._pump.code

    @property
    def window_title(self) -> str:
        """What the program calls itself: text that is safe to draw, but says what the program likes."""
        return "" if self._pump is None else self._pump.emulator.title

    @property
    def takes_keys(self) -> bool:
        """Whether every key is for us (see ``tui.terminal.greedy``)."""
        return self.state is not State.ENDED and self._leaving is None

    # the program

    def on_resize(self, event: events.Resize) -> None:
        del event
        rows, columns = self.size.height, self.size.width
        if not rows or not columns:
            return  # hidden: the program keeps the size it has
        if self._pump is None:
            emulator = make_emulator(rows, columns, colors=self._colors())
            self._view = View(emulator)
            self._pump = Pump(emulator, self._connect, self._request_frame)
            self.run_worker(self._pump.run(), group="terminal")
        else:
            self._pump.resize(rows, columns)
        self._repaint(whole=True)

    def _colors(self) -> tuple[Rgb, Rgb]:
        """Fore- and background, for programs that adapt to them."""
        ground, _, color, _ = self.colors
        return color.rgb, ground.rgb

    def _write(self, data: bytes) -> None:
        """Input for the program; it is seen where it appears."""
        if data and self._pump is not None:
            self._scroll(-self._back)
            self._pump.write(data)

    # drawing

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        known = self._lines.get(y)
        if known is None or known[0] != base:
            known = self._lines[y] = (base, self._draw(y, base))
        return known[1]

    def _draw(self, y: int, base: Style) -> Strip:
        pump, view, width = self._pump, self._view, self.size.width
        if pump is None or view is None or y >= pump.emulator.rows:
            return Strip.blank(width, base)
        place, pieces = self._banner(pump)
        if pieces and y == place:
            return self.strip(pieces, width)
        shown = self.has_focus and pump.state is State.CONNECTED
        return line(
            view.row(y),
            width,
            base,
            cursor=view.cursor(y) if shown else None,
            over=_DIMMED if pump.state is State.RECONNECTING else None,
        )

    def _banner(self, pump: Pump) -> tuple[int, list[Piece]]:
        """A line over the screen, and its row; no pieces when there is nothing to say."""
        last = pump.emulator.rows - 1
        key = shown_key(self.release_key)
        why = f": {clean(pump.why, 200)}" if pump.why else ""
        if pump.state is State.CONNECTING:
            return 0, [(f" connecting… · {key} leaves ", "muted")]
        if pump.state is State.RECONNECTING:
            return last, [(f" connection lost{why} · trying again · {key} leaves ", "warn")]
        if pump.state is State.ENDED:
            tone = "good" if pump.code == 0 else "warn"
            said = "ended" if pump.code is None else f"ended with exit code {pump.code}"
            at = pump.emulator.grid.cursor()
            return last if at is None else at[1], [(f" {said}{why}", tone), (" · enter closes it ", "muted")]
        if self._back:
            return 0, [(f" {self._back} lines up · shift+pgdn, or any key that you type ", "info")]
        return 0, []

    def _request_frame(self) -> None:
        """The screen may be another: draw it soon, but not more often than anybody can see."""
        if self._frame is not None:
            return
        wait = self._painted + _FRAME_SECONDS - time.monotonic()
        if wait <= 0:
            self._repaint()
        else:
            self._frame = self.set_timer(wait, self._repaint)

    def _repaint(self, *, whole: bool = False) -> None:
        self._frame = None
        if self._pump is None or self._view is None:
            return
        self._painted = time.monotonic()
        changed: Iterable[int] = self._view.changes()
        said = (self.state, self.window_title, self._banner(self._pump))
        if said != self._said:
            whole = whole or said[2] != self._said[2:]
            self._said = said
            self.post_message(TerminalChanged(self.id or ""))
        if whole:
            self._lines.clear()
            self.refresh()
            return
        for y in changed:
            self._lines.pop(y, None)
        self.refresh(*(Region(0, y, self.size.width, 1) for y in changed))

    # history

    @property
    def _back(self) -> int:
        return 0 if self._view is None else self._view.back

    def _scroll(self, rows: int) -> None:
        if rows and self._view is not None and self._view.scroll(rows):
            self._repaint(whole=True)

    def _scrolled(self, key: str) -> bool:
        """Whether the key was one that looks at what has left the screen."""
        page = max(1, self.size.height - 1)
        rows = {"shift+pageup": page, "shift+pagedown": -page}.get(key)
        if rows is None or self._view is None or not self._view.farthest:
            return False
        self._scroll(rows)
        return True

    # keys

    async def on_key(self, event: events.Key) -> None:
        if event.key == self.release_key:
            self._taken(event)
            self._release(event)
        elif self._leaving is not None:
            self._leave()  # and the key is for whoever comes next
        elif self._scrolled(event.key):
            self._taken(event)
        elif self.state is State.ENDED:
            if event.key in _CLOSING_KEYS:
                self._taken(event)
                self.post_message(TerminalClosed(self.id or ""))
        else:
            self._taken(event)
            self._type(event)

    def _type(self, event: events.Key) -> None:
        if self._pump is not None:
            application = self._pump.emulator.modes.application_cursor
            self._write(encoded(event.key, event.character, application=application))

    def _release(self, event: events.Key) -> None:
        """Once leaves, twice is for the program."""
        if self._leaving is not None:
            self._leaving.stop()
            self._leaving = None
            self._type(event)
        elif self.state is State.ENDED:
            self._leave()
        else:
            self._leaving = self.set_timer(_TWICE_SECONDS, self._leave)

    def _leave(self) -> None:
        if self._leaving is not None:
            self._leaving.stop()
            self._leaving = None
        self.screen.set_focus(None)  # at once: what is typed next isn't for us
        self.post_message(TerminalLeft(self.id or ""))

    def on_paste(self, event: events.Paste) -> None:
        event.stop()
        if self._pump is not None:
            self._write(pasted(event.text, bracketed=self._pump.emulator.modes.bracketed_paste))

    def on_focus(self) -> None:
        self._focus_moved(b"\x1b[I")

    def on_blur(self) -> None:
        self._focus_moved(b"\x1b[O")

    def _focus_moved(self, said: bytes) -> None:
        if self._pump is not None and self._pump.emulator.modes.focus_events:
            self._pump.write(said)
        self._repaint(whole=True)

    # mouse

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self._point(Did.PRESS, event)
        if self._wants_mouse:
            self.capture_mouse()  # the release may be outside

    def on_mouse_up(self, event: events.MouseUp) -> None:
        self.release_mouse()
        self._point(Did.RELEASE, event)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        self._point(Did.MOVE, event)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._wheel(Wheel.UP, event)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._wheel(Wheel.DOWN, event)

    def on_mouse_scroll_left(self, event: events.MouseScrollLeft) -> None:
        self._wheel(Wheel.LEFT, event)

    def on_mouse_scroll_right(self, event: events.MouseScrollRight) -> None:
        self._wheel(Wheel.RIGHT, event)

    @property
    def _wants_mouse(self) -> bool:
        return self._pump is not None and self._pump.emulator.modes.mouse is not Mouse.OFF

    def _point(self, did: Did, event: events.MouseEvent, button: int | None = None) -> None:
        event.stop()
        if self._pump is None or not self._wants_mouse:
            return
        place = event.get_content_offset_capture(self)
        x = max(0, min(place.x, self.size.width - 1))
        y = max(0, min(place.y, self.size.height - 1))
        if did is Did.MOVE and (x, y) == self._pointer:
            return
        self._pointer = (x, y)
        if button is None:
            button = event.button - 1 if event.button else NO_BUTTON
        held = {"shift": event.shift, "alt": event.meta, "ctrl": event.ctrl}
        self._write(report(self._pump.emulator.modes, did, button, x, y, **held))

    def _wheel(self, turned: Wheel, event: events.MouseEvent) -> None:
        if self._pump is None:
            return
        if self._wants_mouse:
            self._point(Did.PRESS, event, turned.value)
            return
        event.stop()
        if keys := wheel(self._pump.emulator.modes, turned, _WHEEL_ROWS):
            self._write(keys)
        elif turned in (Wheel.UP, Wheel.DOWN):
            self._scroll(_WHEEL_ROWS if turned is Wheel.UP else -_WHEEL_ROWS)

    def _taken(self, event: Message) -> None:
        event.stop()
        event.prevent_default()
