"""This terminal while its keys belong to a program somewhere else."""

from __future__ import annotations

import contextlib
import os
import re
import termios
import tty
from collections.abc import Iterator

_MODE = re.compile(rb"\x1b\[\?([0-9;]{1,40})([hl])")
_LONGEST_MODE = 44
_ALTERNATE = ("47", "1047", "1049")
_LASTING = (*_ALTERNATE, "1", "9", "1000", "1002", "1003", "1004", "1005", "1006", "1015", "2004")
"""Modes that a program turns on, and that a shell would not turn off again."""
_CURSOR = "25"


class Escape:
    """``~.`` at the start of a line leaves, as ssh has it; ``~~`` is one ``~``."""

    def __init__(self) -> None:
        self._fresh = True
        self._held = False

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What of the keys is to be sent, and whether somebody wants to leave."""
        sent = bytearray()
        for key in data:
            if self._held:
                self._held = False
                if key == ord("."):
                    return bytes(sent), True
                if key != ord("~"):
                    sent.append(ord("~"))
            elif self._fresh and key == ord("~"):
                self._held = True
                continue
            sent.append(key)
            self._fresh = key in b"\r\n"
        return bytes(sent), False


class Modes:
    """Which lasting modes of the terminal are on: a program that is cut off can't turn them off itself."""

    def __init__(self) -> None:
        self._on: set[str] = set()
        self._tail = b""

    def see(self, data: bytes) -> None:
        """Output that the terminal got."""
        text = self._tail + data
        end = 0
        for found in _MODE.finditer(text):
            end = found.end()
            for mode in found[1].decode().split(";"):
                if (found[2] == b"h") != (mode == _CURSOR) and mode in (*_LASTING, _CURSOR):
                    self._on.add(mode)
                else:
                    self._on.discard(mode)
        self._tail = text[max(end, len(text) - _LONGEST_MODE) :]

    @property
    def full_screen(self) -> bool:
        """Whether a program draws on a screen of its own."""
        return not self._on.isdisjoint(_ALTERNATE)

    def undo(self) -> bytes:
        """What brings the terminal back to how a shell wants it."""
        back = [f"\x1b[?{mode}{'h' if mode == _CURSOR else 'l'}" for mode in sorted(self._on)]
        return "".join([*back, "\x1b>\x1b[0m" if back else ""]).encode()


@contextlib.contextmanager
def raw_mode() -> Iterator[None]:
    """Every key goes to the program; the terminal is as it was whatever happens."""
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSANOW)
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSANOW, before)


def size() -> tuple[int, int]:
    """Rows and columns of this terminal."""
    for stream in (0, 1, 2):
        with contextlib.suppress(OSError):
            found = os.get_terminal_size(stream)
            if found.lines and found.columns:
                return found.lines, found.columns
    return 24, 80


def is_terminal(stream: int) -> bool:
    try:
        return os.isatty(stream)
    except OSError:
        return False
