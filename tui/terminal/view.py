"""Which rows of a terminal are in sight: those of its screen, or some that have left it."""

from __future__ import annotations

from collections.abc import Collection

from tui.terminal.emulator import Cursor, Emulator, Run


class View:
    """``back``: how many rows the view is above the live screen. It holds still while output arrives."""

    def __init__(self, emulator: Emulator) -> None:
        self.back = 0
        self._emulator = emulator
        self._cursor: Cursor | None = None
        self._scrolled = 0

    def row(self, y: int) -> list[Run]:
        """What to draw as the view's row ``y``."""
        return self._emulator.grid.row(y - self.back)

    def cursor(self, y: int) -> int | None:
        """The cursor's column, when it is in this row."""
        if self._cursor is None or self._cursor[1] + self.back != y:
            return None
        return self._cursor[0]

    def changes(self) -> Collection[int]:
        """The rows to draw again since somebody asked last."""
        grid = self._emulator.grid
        rows = set(grid.dirty())
        before, self._cursor = self._cursor, grid.cursor()
        if self._cursor != before:
            rows |= {place[1] for place in (before, self._cursor) if place is not None}
        arrived, self._scrolled = grid.scrolled() - self._scrolled, grid.scrolled()
        if not self.back:
            return rows
        self.back = min(self.back + max(0, arrived), self.farthest)
        return range(self._emulator.rows)

    def scroll(self, rows: int) -> bool:
        """Look so many rows farther up (or down); False when that is where it looks already."""
        before, self.back = self.back, max(0, min(self.back + rows, self.farthest))
        return self.back != before

    @property
    def farthest(self) -> int:
        """How far up one can look; programs on the alternate screen have no history."""
        return 0 if self._emulator.modes.alternate_screen else self._emulator.grid.history()
