"""Our own themes; every other one of Textual works too, because styles name meanings, not colours."""

from __future__ import annotations

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
