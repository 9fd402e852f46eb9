"""A terminal's screen: bytes of a program in, rows of cells out. A library draws the cells."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from rich.style import Style

from tui.terminal.stream import Modes, Rgb, Stream

Run = tuple[list[str], Style]
"""Cells side by side in one style. A cell is a character and what combines with it; the right half of a wide
one is ''."""
Cursor = tuple[int, int]
"""Column and row, from 0."""
HISTORY = 3000
"""Rows kept that went off the top of the screen."""


class Grid(Protocol):
    """The cells of a screen, as a library keeps them. It sees only what ``Stream`` lets through."""

    def feed(self, data: bytes) -> None: ...

    def resize(self, rows: int, columns: int) -> None: ...

    def row(self, y: int) -> list[Run]:
        """A row of the screen; ``-1`` went off the top last, perhaps without the blanks at its end."""
        ...

    def dirty(self) -> Collection[int]:
        """The rows that changed since the last time somebody asked."""
        ...

    def cursor(self) -> Cursor | None:
        """Where it is; None while it is hidden."""
        ...

    def history(self) -> int:
        """How many rows there are above the screen."""
        ...

    def scrolled(self) -> int:
        """How many rows ever went off the top."""
        ...

    def answers(self) -> bytes:
        """What to send back to the program; asking takes it."""
        ...


_SURPRISES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a mistake in a library may lead to. Bytes of a program must not end the whole interface."""


class Emulator:
    """A program's terminal, without eyes and hands."""

    def __init__(
        self,
        rows: int,
        columns: int,
        make: Callable[[int, int], Grid],
        *,
        colors: tuple[Rgb, Rgb] | None = None,
    ) -> None:
        """``make``: a grid of so many rows and columns. ``colors``: fore- and background, for who asks."""
        self.rows, self.columns = rows, columns
        self.grid = make(rows, columns)
        self._make = make
        self._stream = Stream(*colors) if colors is not None else Stream()

    def feed(self, data: bytes) -> bytes:
        """Draw what the program wrote; returns what the terminal answers."""
        data = self._stream.feed(data)
        try:
            self.grid.feed(data)
        except _SURPRISES:
            self.grid = self._make(self.rows, self.columns)  # an empty screen, which most programs fill again
        return self._stream.answers() + self.grid.answers()

    def resize(self, rows: int, columns: int) -> None:
        if (rows, columns) != (self.rows, self.columns):
            self.rows, self.columns = rows, columns
            try:
                self.grid.resize(rows, columns)
            except _SURPRISES:
                self.grid = self._make(rows, columns)

    @property
    def modes(self) -> Modes:
        return self._stream.modes

    @property
    def title(self) -> str:
        """The window title that the program set: text that is safe to draw."""
        return self._stream.title
