"""Everything that is printed: tables, facts, JSON, and what came from tasks and nodes made harmless.

A terminal gets colours and tables (Rich, imported only then) without a single control byte of a task's or
node's own; a pipe gets plain text and the raw bytes.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from hakuriver.errors import HakuRiverError
from hakuriver.lifecycle import NodeState, State
from hakuriver.units import format_duration

_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, APC …
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"  # two bytes: anything but the starts of those above
)
_HARMFUL = {
    **dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], None),
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], None),  # text direction overrides
}
_CELL = {**_HARMFUL, **dict.fromkeys(map(ord, "\n\r\t\v\f"), " ")}
_LOG = {code: to for code, to in _HARMFUL.items() if chr(code) not in "\n\r\t"}
_LONGEST_ESCAPE = 4200

STYLES = {
    State.PENDING: "yellow",
    State.ASSIGNED: "cyan",
    State.PREPARING: "cyan",
    State.RUNNING: "green",
    State.PAUSED: "magenta",
    State.STOPPING: "magenta",
    State.STOPPED: "blue",
    State.COMPLETED: "dim",
    State.FAILED: "red",
    State.KILLED: "red",
    State.KILLED_OOM: "red",
    State.TIMED_OUT: "red",
    State.LOST: "red",
    NodeState.ONLINE: "green",
    NodeState.UNREACHABLE: "red",
    NodeState.OFFLINE: "yellow",
    NodeState.REMOVED: "dim",
}
_SGR = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36}


@dataclass(frozen=True, slots=True)
class Column:
    """``drop``: the columns with the highest number go first where a terminal is narrow; 0 stays always.
    ``flexible``: may be cut with an ellipsis."""

    title: str
    drop: int = 0
    right: bool = False
    flexible: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a colour."""

    text: str
    style: str = ""


def clean(text: str) -> str:
    """One line without anything that a terminal would act on."""
    return _ESCAPE.sub("", text).translate(_CELL)


class LogCleaner:
    """Log bytes made harmless for a terminal, chunk by chunk: line ends, tabs and the carriage return of
    progress bars stay; escape sequences go even where a chunk ends inside one."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""

    def feed(self, data: bytes, *, final: bool = False) -> str:
        text = _ESCAPE.sub("", self._held + self._decode(data, final))
        start = text.rfind("\x1b")
        complete = final or start < 0 or len(text) - start > _LONGEST_ESCAPE
        text, self._held = (text, "") if complete else (text[:start], text[start:])
        return text.translate(_LOG)


def to_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def shown(text: str) -> str:
    """Foreign text as it may be printed here: clean on a terminal, raw in a pipe."""
    return clean(text) if to_terminal() else text


def paint(text: str, style: str) -> str:
    """Foreign text, coloured where standard output is a terminal that has colours."""
    if not to_terminal():
        return text
    plain = not style or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return clean(text) if plain else f"\x1b[{_SGR[style]}m{clean(text)}\x1b[0m"


def print_json(value: object) -> None:
    """One value on standard output, indented for people."""
    print(json.dumps(value, indent=2 if to_terminal() else None))


def print_line(value: object) -> None:
    """One line of NDJSON, at once."""
    print(json.dumps(value), flush=True)


def say(text: str) -> None:
    """A remark for people, on standard error."""
    print(f"hakuriver: {clean(text) if sys.stderr.isatty() else text}", file=sys.stderr, flush=True)


def print_error(error: HakuRiverError, *, as_json: bool) -> None:
    """The one form of errors on stderr."""
    if as_json:
        print(json.dumps(error.to_json()), file=sys.stderr)
        return
    harmless = clean if sys.stderr.isatty() else str
    print(f"hakuriver: {harmless(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {harmless(error.hint)}", file=sys.stderr)


def facts(pairs: Iterable[tuple[str, str | Cell | None]]) -> None:
    """``label  value`` lines; what is None or empty is left out."""
    given = [(label, value if isinstance(value, Cell) else Cell(value)) for label, value in pairs if value]
    width = max((len(label) for label, _ in given), default=0)
    for label, cell in given:
        if cell.text:
            print(f"{paint(f'{label:<{width}}', 'dim')}  {paint(cell.text, cell.style)}")


def table(columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]]) -> None:
    """Rows under titles: a Rich table on a terminal, aligned plain text in a pipe."""
    cells = [[each if isinstance(each, Cell) else Cell(each) for each in row] for row in rows]
    if to_terminal():
        _rich_table(columns, [[Cell(clean(cell.text), cell.style) for cell in row] for row in cells])
        return
    texts = [[cell.text.translate(_ONE_LINE) or "-" for cell in row] for row in cells]
    widths = [
        max(len(text) for text in each) for each in zip([c.title for c in columns], *texts, strict=True)
    ]
    for line in [[column.title for column in columns], *texts]:
        parts = [_aligned(*each) for each in zip(line, widths, columns, strict=True)]
        print("  ".join(parts).rstrip())


_ONE_LINE = {ord("\n"): " ", ord("\r"): " "}


def _aligned(text: str, width: int, column: Column) -> str:
    return text.rjust(width) if column.right else text.ljust(width)


def fitting(columns: Sequence[Column], widths: Sequence[int], space: int) -> dict[int, int]:
    """Which columns are shown in ``space``, by index, and how wide each is (pure).

    Without content (width 0) only what must stay stays; then the least important go until the rest fits;
    flexible columns share what is left.
    """
    kept = [i for i, column in enumerate(columns) if widths[i] or not column.drop]
    least = {i: min(widths[i], _LEAST_FLEXIBLE) if columns[i].flexible else widths[i] for i in kept}
    while _total(least) > space and any(columns[i].drop for i in least):
        del least[max(least, key=lambda i: columns[i].drop)]
    for i, width in least.items():
        if columns[i].flexible:
            least[i] = max(min(1, widths[i]), min(widths[i], width + space - _total(least)))
    return least


_GAP = 2
_LEAST_FLEXIBLE = 16


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _rich_table(columns: Sequence[Column], rows: list[list[Cell]]) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    plain = console.no_color
    grid = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="" if plain else "bold")
    widths = [max([cell_len(row[i].text) for row in rows], default=1) for i in range(len(columns))]
    widths = [width and max(width, len(column.title)) for width, column in zip(widths, columns, strict=True)]
    kept = fitting(columns, widths, console.width)
    for i, width in kept.items():
        justify: Literal["left", "right"] = "right" if columns[i].right else "left"
        grid.add_column(columns[i].title, justify=justify, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        grid.add_row(*(Text(row[i].text, style="" if plain else row[i].style) for i in kept))
    console.print(grid)


def moment(text: str | None) -> datetime | None:
    """A time of the API."""
    return datetime.fromisoformat(text) if text else None


def age(since: str | None, until: str | None = None) -> str:
    """How long something took, or has taken so far: ``3m05s``; empty when it has not begun."""
    start = moment(since)
    if start is None:
        return ""
    return format_duration(((moment(until) or datetime.now(UTC)) - start).total_seconds())


def local_time(text: str | None) -> str:
    """A time of the API on this machine's clock."""
    at = moment(text)
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""


def state_cell(state: str) -> Cell:
    """A state in its colour; one that a newer host added has none."""
    return Cell(state, STYLES.get(state, ""))  # type: ignore[call-overload]
