"""A terminal for tests: enough of one to replay what the compositor or the differ sends."""

from __future__ import annotations

import re

from rich.cells import cell_len

_TOKEN = re.compile(r"\x1b\[(\d+);(\d+)H|\x1b\[([\d;]*)m|\x1b\]8;([^\x1b]*)\x1b\\|(\n)|(.)", re.DOTALL)


class Terminal:
    """Cells of (text, SGR, link); the right half of a wide character is ''."""

    def __init__(self, width: int, height: int) -> None:
        self.cells = [[(" ", "", "")] * width for _ in range(height)]
        self._width = width
        self._x = self._y = 0
        self._style = self._link = ""

    def feed(self, data: str) -> None:
        for move_y, move_x, sgr, link, line, text in _TOKEN.findall(data):
            if move_y:
                self._y, self._x = int(move_y) - 1, int(move_x) - 1
            elif text:
                self._put(text)
            elif line:
                self._x = 0
            elif link or sgr == "":
                self._link = "" if link == ";" else link
            else:
                self._style = "" if sgr == "0" else sgr

    def _put(self, text: str) -> None:
        row, width = self.cells[self._y], cell_len(text)
        if width == 0:
            at = self._x - 1
            while at > 0 and row[at][0] == "":
                at -= 1
            row[at] = (row[at][0] + text, row[at][1], row[at][2])
            return
        for at in range(self._x, min(self._x + width, self._width)):
            self._break(row, at)
        for at in range(self._x, min(self._x + width, self._width)):
            row[at] = (text if at == self._x else "", self._style, self._link)
        self._x += width

    def _break(self, row: list[tuple[str, str, str]], at: int) -> None:
        """Overwriting one half of a wide character erases the other."""
        if row[at][0] == "" and at > 0:
            row[at - 1] = (" ", *row[at - 1][1:])
        if at + 1 < self._width and row[at + 1][0] == "":
            row[at + 1] = (" ", *row[at + 1][1:])

    @property
    def lines(self) -> list[str]:
        return ["".join(text for text, _, _ in row) for row in self.cells]
