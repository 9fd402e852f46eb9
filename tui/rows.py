"""The state of a table, apart from any widget: rows by key, their order, filter, cursor and marks."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column. ``sort`` gives values that compare with each other; ``tone`` names a colour by meaning.

    ``width`` is the least width in cells; what is left over goes to the columns with ``flex``. Columns with
    the highest ``drop`` leave first when the table is too narrow; 0 stays always.
    """

    id: str
    title: str
    width: int
    text: Callable[[Row], str]
    sort: Callable[[Row], Any]
    tone: Callable[[Row], str] = lambda _: ""
    flex: int = 0
    drop: int = 0
    right: bool = False
    descending: bool = False  # the way round that people expect first
    ticks: bool = False  # the text depends on the clock


class Rows(Generic[Key, Row]):
    """Rows with unique, comparable keys. The visible ones lie sorted in ``_entries`` as (sort value, key).

    ``versions`` has another number for a key each time its row is replaced.
    """

    def __init__(self, key: Callable[[Row], Key], columns: Iterable[Column[Row]], sort: str) -> None:
        self.key = key
        self.columns = {column.id: column for column in columns}
        self.all: dict[Key, Row] = {}
        self.marks: set[Key] = set()
        self.versions: dict[Key, int] = {}
        self.cursor: Key | None = None
        self.range_from: Key | None = None
        self.sort = sort
        self.reverse = self.columns[sort].descending
        self._test: Callable[[Row], bool] | None = None
        self._entries: list[tuple[Any, Any]] = []
        self._value: dict[Key, Any] = {}
        self._changes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._value

    def key_at(self, index: int) -> Key:
        found: Key = self._entries[-1 - index if self.reverse else index][1]
        return found

    def row_at(self, index: int) -> Row:
        return self.all[self.key_at(index)]

    def index(self, key: Key | None) -> int | None:
        """Where a visible row stands."""
        if key is None or key not in self._value:
            return None
        place = bisect_left(self._entries, (self._value[key], key))
        return len(self._entries) - 1 - place if self.reverse else place

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        return self.all[self.cursor] if self.cursor is not None and self.cursor in self._value else None

    def selected(self) -> list[Row]:
        """What verbs act on: the visible marked rows in their order, else the one under the cursor."""
        if marked := sorted(i for i in map(self.index, self.marks) if i is not None):
            return [self.row_at(i) for i in marked]
        return [] if self.current is None else [self.current]

    def load(self, rows: Iterable[Row]) -> None:
        """Replace every row; cursor and marks stay with their keys."""
        self.all = {self.key(row): row for row in rows}
        self.marks &= self.all.keys()
        self._changes += 1
        self.versions = dict.fromkeys(self.all, self._changes)
        self._rebuild()

    def update(self, changed: Mapping[Key, Row | None]) -> bool:
        """Apply new rows (None = gone); True when the order or number of visible rows changed."""
        before = self.index(self.cursor)
        moved = False
        for key, row in changed.items():
            moved |= self._remove(key) if row is None else self._put(key, row)
        if moved:
            self._settle(before)
        return moved

    def filter(self, test: Callable[[Row], bool] | None) -> None:
        self._test = test
        self._rebuild()

    def sort_by(self, column: str, *, reverse: bool | None = None) -> None:
        self.sort = column
        self.reverse = self.columns[column].descending if reverse is None else reverse
        self._rebuild()

    def move_to(self, index: int) -> None:
        """Put the cursor on a row; out of range means the nearest end. An open range follows."""
        if not self._entries:
            self.cursor = None
            return
        self.cursor = self.key_at(max(0, min(len(self) - 1, index)))
        if (start := self.index(self.range_from)) is not None:
            end = self.index(self.cursor) or 0
            self.marks |= {self.key_at(i) for i in range(min(start, end), max(start, end) + 1)}

    def toggle_mark(self) -> None:
        if self.cursor is not None and self.cursor in self._value:
            self.marks ^= {self.cursor}

    def toggle_all(self) -> None:
        """Mark every visible row, or none when all are."""
        visible = set(self._value)
        self.marks = set() if visible <= self.marks else self.marks | visible

    def toggle_range(self) -> None:
        self.range_from = None if self.range_from is not None else self.cursor
        if self.range_from is not None:
            self.marks.add(self.range_from)

    def _rebuild(self) -> None:
        before = self.index(self.cursor)
        value, test = self.columns[self.sort].sort, self._test
        self._value = {key: value(row) for key, row in self.all.items() if test is None or test(row)}
        self._entries = sorted((sort_value, key) for key, sort_value in self._value.items())
        self._settle(before)

    def _settle(self, before: int | None) -> None:
        """Give the cursor a row when its own is gone: the one that took its place."""
        if self.cursor is None or self.cursor not in self._value:
            self.cursor = self.key_at(min(before or 0, len(self) - 1)) if self._entries else None
        if self.range_from is not None and self.range_from not in self._value:
            self.range_from = None

    def _put(self, key: Key, row: Row) -> bool:
        self.all[key] = row
        self._changes += 1
        self.versions[key] = self._changes
        if self._test is not None and not self._test(row):
            return self._hide(key)
        value = self.columns[self.sort].sort(row)
        if key in self._value and self._value[key] == value:
            return False
        self._hide(key)
        self._value[key] = value
        insort(self._entries, (value, key))
        return True

    def _remove(self, key: Key) -> bool:
        self.all.pop(key, None)
        self.versions.pop(key, None)
        self.marks.discard(key)
        return self._hide(key)

    def _hide(self, key: Key) -> bool:
        if key not in self._value:
            return False
        del self._entries[bisect_left(self._entries, (self._value.pop(key), key))]
        return True


def widths(columns: Iterable[Column[Any]], available: int, gap: int = 2) -> list[tuple[Column[Any], int]]:
    """Which columns fit into ``available`` cells, and how wide each becomes."""
    shown = list(columns)
    while len(shown) > 1 and sum(c.width + gap for c in shown) - gap > available:
        worst = max(shown, key=lambda c: c.drop)
        if worst.drop == 0:
            break
        shown.remove(worst)
    spare = max(0, available - sum(c.width + gap for c in shown) + gap)
    flex = sum(c.flex for c in shown)
    sized = [(c, c.width + (spare * c.flex // flex if flex else 0)) for c in shown]
    lost = spare - sum(width - c.width for c, width in sized)
    last = max((i for i, c in enumerate(shown) if c.flex), default=None)
    if last is not None:
        sized[last] = (sized[last][0], sized[last][1] + lost)
    return sized
