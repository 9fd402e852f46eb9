"""Mouse events → what xterm reports of them. Pure."""

from __future__ import annotations

from enum import Enum

from tui.terminal.stream import Modes, Mouse

NO_BUTTON = 3
_MOVED = 32
_FARTHEST = 223
"""The last column and row that reports without SGR can name."""


class Did(Enum):
    PRESS = "press"
    RELEASE = "release"
    MOVE = "move"


class Wheel(Enum):
    """Their numbers as buttons."""

    UP = 64
    DOWN = 65
    LEFT = 66
    RIGHT = 67


def report(
    modes: Modes,
    did: Did,
    button: int,
    x: int,
    y: int,
    *,
    shift: bool = False,
    alt: bool = False,
    ctrl: bool = False,
) -> bytes:
    """What the program is told; nothing when it doesn't want to know.

    ``button``: 0 left, 1 middle, 2 right, a ``Wheel``'s number, or ``NO_BUTTON``. ``x``, ``y``: from 0.
    """
    wanted = modes.mouse
    if wanted is Mouse.OFF or (wanted is Mouse.PRESSES and did is not Did.PRESS):
        return b""
    if did is Did.MOVE and (wanted < Mouse.DRAGS or (wanted is Mouse.DRAGS and button == NO_BUTTON)):
        return b""
    held = 0 if wanted is Mouse.PRESSES else shift * 4 + alt * 8 + ctrl * 16
    code = button + held + (_MOVED if did is Did.MOVE else 0)
    if modes.mouse_sgr:
        return b"\x1b[<%d;%d;%d%c" % (code, x + 1, y + 1, b"m" if did is Did.RELEASE else b"M")
    if did is Did.RELEASE:
        code = code & ~3 | NO_BUTTON
    if x >= _FARTHEST or y >= _FARTHEST:
        return b""
    return b"\x1b[M" + bytes((32 + code, 33 + x, 33 + y))


def wheel(modes: Modes, turned: Wheel, lines: int) -> bytes:
    """Cursor keys for a program on the alternate screen that doesn't take the mouse, as ``less``."""
    if modes.mouse is not Mouse.OFF or not (modes.alternate_screen and modes.wheel_as_arrows):
        return b""
    if turned not in (Wheel.UP, Wheel.DOWN):
        return b""
    key = b"A" if turned is Wheel.UP else b"B"
    return ((b"\x1bO" if modes.application_cursor else b"\x1b[") + key) * lines
