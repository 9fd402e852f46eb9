"""Our own themes; every other one of Textual works too, because styles name meanings, not colours."""

from __future__ import annotations

from rich.terminal_theme import TerminalTheme
from textual.theme import Theme


def river() -> Theme:
    return Theme(
        name="river",
        dark=True,
        primary="#4fa8d8",
        secondary="#7aa7c7",
        accent="#9d8fd0",
        foreground="#d4dce4",
        background="#0e1317",
        surface="#141b21",
        panel="#1a232b",
        success="#86c07a",
        warning="#e0b060",
        error="#e2707a",
    )


def river_sixteen() -> Theme:
    """For terminals of sixteen colours: each colour is near one that they have."""
    return Theme(
        name="river-16",
        dark=True,
        primary="#00cdcd",
        secondary="#5c9cff",
        accent="#cd00cd",
        foreground="#e5e5e5",
        background="#000000",
        surface="#000000",
        panel="#000000",
        success="#00cd00",
        warning="#cdcd00",
        error="#ff0000",
    )


_NORMAL = "1c242b d9626c 86c07a e0b060 5a96dc be82d2 5abec8 c8d0d8"
_BRIGHT = "62707c f0828a a5da98 f0d082 82b4f0 d7a5e8 82d7de f0f4f8"
_NORMAL_16 = "000000 aa0000 00aa00 aa5500 0000aa aa00aa 00aaaa aaaaaa"
_BRIGHT_16 = "555555 ff5555 55ff55 ffff55 5555ff ff55ff 55ffff ffffff"
"""Each is nearest to itself among the colours of a terminal that has no more."""


def ansi_colors(*, sixteen: bool) -> TerminalTheme:
    """What the sixteen colours of programs look like, in shells and in logs."""
    normal, bright = (_NORMAL_16, _BRIGHT_16) if sixteen else (_NORMAL, _BRIGHT)
    return TerminalTheme(
        _rgb("0e1317"), _rgb("d4dce4"), [*map(_rgb, normal.split())], [*map(_rgb, bright.split())]
    )


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color)
    return red, green, blue
