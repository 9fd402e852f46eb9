"""Colours by meaning, for widgets that draw their own lines: component classes and the styles behind them."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.css.styles import StylesBase
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tui.plain import fit

NAMES = frozenset(
    {"good", "wait", "info", "warn", "bad", "muted", "accent", "title", "held", "faint", "cursor", "mark"}
)
COMPONENTS = frozenset(f"tone--{name}" for name in NAMES)
Piece = tuple[str, str]
"""Text and the name of its tone ('' = plain)."""


class Drawn(Widget):
    """A widget whose lines are made of pieces, and that repaints only lines that changed."""

    COMPONENT_CLASSES: ClassVar[set[str]] = set(COMPONENTS)

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._tones: dict[tuple[str, str, Color], Style] = {}

    def tone(self, name: str, under: Color | None = None) -> Style:
        """The style of a tone, without a background unless the tone has one; nothing for unknown names.

        ``under``: our background, for those who ask often: finding it means asking all ancestors.
        """
        if name not in NAMES:
            return Style.null()
        if name == "cursor" and self.app.theme == "river-16":
            return Style(bgcolor="#0000cd", bold=True)  # a shade of the primary would be black there
        if under is None:
            _, under = self.background_colors
        key = (name, self.app.theme, under)
        if key not in self._tones:
            self._tones[key] = _blended(self.get_component_styles(f"tone--{name}"), under)
        return self._tones[key]

    def strip(self, pieces: list[Piece], width: int, base: Style | None = None) -> Strip:
        """Pieces as one line of exactly ``width`` cells."""
        style = self.rich_style if base is None else base
        _, ground = self.background_colors
        segments = [Segment(text, style + self.tone(tone, ground)) for text, tone in pieces if text]
        return Strip(segments).adjust_cell_length(width, style)


def differing(old: list[Strip], new: list[Strip], width: int) -> list[Region]:
    """The lines to repaint."""
    count = max(len(old), len(new))
    return [
        Region(0, y, width, 1) for y in range(count) if y >= len(old) or y >= len(new) or old[y] != new[y]
    ]


def _blended(styles: StylesBase, under: Color) -> Style:
    """A component's own colours without transparency, which a terminal doesn't have."""
    color = (under + styles.color).rich_color if styles.has_rule("color") else None
    background = (under + styles.background).rich_color if styles.has_rule("background") else None
    return styles.text_style + Style(color=color, bgcolor=background)


def bar(width: int, used: float | None, held: float, tone: str = "accent") -> list[Piece]:
    """A meter of fractions: ``━`` really used, ``╍`` allocated on top of that, ``─`` free.

    Use beyond what is allocated is drawn as used; unknown use shows the allocation alone.
    """
    halves = round(min(1.0, max(0.0, used or 0.0)) * width * 2)
    body = "━" * (halves // 2) + "╸" * (halves % 2)
    reserved = max(0, round(min(1.0, held) * width) - len(body))
    return [(body, tone), ("╍" * reserved, "held"), ("─" * (width - len(body) - reserved), "faint")]


def length(pieces: list[Piece]) -> int:
    """Cells that the pieces take."""
    return sum(cell_len(text) for text, _ in pieces)


def spread(left: list[Piece], right: list[Piece], width: int) -> list[Piece]:
    """Left and right with room between; the left is cut when both don't fit."""
    room = width - sum(len(text) for text, _ in right)
    kept: list[Piece] = []
    for text, tone in left:
        if room <= 0:
            break
        kept.append((fit(text, room) if len(text) > room else text, tone))
        room -= len(kept[-1][0])
    return [*kept, (" " * max(0, room), ""), *right]
