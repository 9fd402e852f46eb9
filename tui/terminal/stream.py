"""What a program sends to its terminal, before an emulator sees it: made harmless, and listened to. Pure.

An emulator gets text, cursor movement, colours and the few modes that are about its cells. All that would
reach past them (clipboard, titles, window operations, printers, keyboard protocols that we don't speak) ends
here, and so does what could grow without bound. What keyboard and mouse have to know is kept in ``Modes``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum

from tui.plain import clean

_LONGEST_STRING = 4096
_LONGEST_TITLE = 200
_CELL_MODES = frozenset({6, 7, 25, 47, 1047, 1048, 1049})
"""Private modes that an emulator is told of: origin, wrap, cursor, alternate screen."""
_ALTERNATE = frozenset({47, 1047, 1049})


class Mouse(IntEnum):
    """Which mouse events the program wants; the numbers are the modes that say so."""

    OFF = 0
    PRESSES = 9
    CLICKS = 1000
    DRAGS = 1002
    MOTION = 1003


@dataclass(slots=True)
class Modes:
    """How the program wants its input."""

    application_cursor: bool = False
    bracketed_paste: bool = False
    focus_events: bool = False
    alternate_screen: bool = False
    wheel_as_arrows: bool = True
    """On the alternate screen, when it doesn't take the mouse."""
    mouse: Mouse = Mouse.OFF
    mouse_sgr: bool = False


_SWITCHES = {1: "application_cursor", 1004: "focus_events", 1006: "mouse_sgr", 1007: "wheel_as_arrows"} | {
    2004: "bracketed_paste"
}
_STRING = re.compile(rb"\x1b([\]PX^_])")
_STRING_END = re.compile(rb"[\x07\x18\x1a]|\x1b(?:\\|(?=[^\\])|\Z)")
_UNFINISHED = re.compile(rb"(?:\x1b(?:\[[0-?]{0,64}[ -/]{0,4}|[ -/]{0,2})?|\xc2)\Z")
_LONGEST_UNFINISHED = 72
_ODD = re.compile(
    rb"\x1b\[(?![0-9;:]{0,64}[@A-MPSTXZ`a-gmnrsu]|(?:4|20)[hl])(?P<csi>[0-?]*[ -/]*[@-~]?)"
    rb"|\x1b(?P<reset>c)"
    rb"|\x1b(?:[ %][ -~]?|#(?!8)[ -~]?|[ZVW\\])"  # 8-bit controls, other encodings, double height, …
    rb"|\xc2[\x80-\x9f]"  # C1 controls as UTF-8
)
_PRIVATE = re.compile(rb"\?([0-9;]{0,64})([hl])\Z")
_PASSED = frozenset({b"!p", b">c", b">0c", b"?6n", b"?J", b"?K"})
Rgb = tuple[int, int, int]


@dataclass(slots=True)
class Stream:
    """Bytes in, what is left of them out. ``foreground``, ``background``: for programs that ask."""

    foreground: Rgb = (212, 212, 212)
    background: Rgb = (0, 0, 0)
    modes: Modes = field(default_factory=Modes)
    title: str = ""
    _rest: bytes = b""
    _string: bytearray | None = None
    """The string (OSC, DCS, …) that we are in the middle of, from its introducer on."""
    _answers: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> bytes:
        """What an emulator should see of these bytes."""
        data = self._rest + data
        self._rest = b""
        kept: list[bytes] = []
        while data:
            if self._string is not None:
                data = self._through_string(self._string, data)
            elif (start := _STRING.search(data)) is not None:
                kept.append(_ODD.sub(self._odd, data[: start.start()]))
                self._string = bytearray(start[1])
                data = data[start.end() :]
            else:
                cut = _UNFINISHED.search(data, max(0, len(data) - _LONGEST_UNFINISHED))
                end = len(data) if cut is None else cut.start()
                kept.append(_ODD.sub(self._odd, data[:end]))
                self._rest = data[end:]
                break
        return b"".join(kept)

    def answers(self) -> bytes:
        """What to send back to the program; asking takes it."""
        found = bytes(self._answers)
        self._answers.clear()
        return found

    def _through_string(self, string: bytearray, data: bytes) -> bytes:
        """What follows the string that we are in; nothing when it goes on."""
        end = _STRING_END.search(data)
        content = data if end is None else data[: end.start()]
        string += content[: max(0, _LONGEST_STRING - len(string))]
        if end is None:
            return b""
        if end[0] == b"\x1b" and end.end() == len(data):
            self._rest = b"\x1b"  # whether it ends the string shows in what comes next
            return b""
        self._string = None
        if end[0] in (b"\x07", b"\x1b\\") and string.startswith(b"]"):
            self._command(bytes(string[1:]))
        return data[end.start() if end[0] == b"\x1b" else end.end() :]

    def _command(self, content: bytes) -> None:
        """An operating system command: titles are kept, questions for colours answered, others dropped."""
        number, _, value = content.partition(b";")
        if number in (b"0", b"2"):
            self.title = clean(value.decode("utf-8", "replace"), _LONGEST_TITLE)
        elif number in (b"10", b"11") and value == b"?":
            color = self.foreground if number == b"10" else self.background
            said = "/".join(f"{part:02x}{part:02x}" for part in color)
            self._answers += b"\x1b]%b;rgb:%b\x1b\\" % (number, said.encode())

    def _odd(self, match: re.Match[bytes]) -> bytes:
        if match["reset"]:
            self.modes = Modes()
            return match[0]
        sequence = match["csi"]
        if sequence is None:
            return b""
        if sequence == b"!p":
            self.modes.application_cursor = False
        if sequence in _PASSED:
            return match[0]
        if (private := _PRIVATE.fullmatch(sequence)) is not None:
            return self._private_modes(private[1], on=private[2] == b"h")
        return b""

    def _private_modes(self, numbers: bytes, *, on: bool) -> bytes:
        """Listen to modes; what is returned switches those of the cells."""
        cells: list[bytes] = []
        for text in numbers.split(b";"):
            mode = int(text or b"0")
            if mode in _CELL_MODES:
                cells.append(b"%d" % mode)
            if mode in _ALTERNATE:
                self.modes.alternate_screen = on
            elif mode in _SWITCHES:
                setattr(self.modes, _SWITCHES[mode], on)
            elif mode in (9, 1000, 1002, 1003):
                self.modes.mouse = Mouse(mode) if on else Mouse.OFF
        return b"\x1b[?" + b";".join(cells) + (b"h" if on else b"l") if cells else b""
