"""The state of a table, apart from any widget: rows by key, their order, filter, cursor and marks."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from tui.columns import Column

_AT_ONCE = 2000
"""So many rows are arranged without asking."""
_STEP = 500
Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")


class Rows(Generic[Key, Row]):
    """Rows with unique, comparable keys. The visible ones' keys lie in ``_entries``, sorted by (value, key).

    No tuples there: the garbage collector would look through all of them, which takes longer than sorting.
    ``versions`` has another number for a key each time its row is replaced. Whatever arranges very many
    rows anew is only begun: ``arrange`` goes on with it, and until it is done the old arrangement stands.
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
        self._entries: list[Key] = []
        self._value: dict[Key, Any] = {}
        self._arranged_by: tuple[Callable[[Row], Any], Callable[[Row], bool] | None, bool]
        self._arranged_by = (self.columns[sort].sort, None, self.reverse)
        self._changes = 0
        self._texts: dict[Key, str] = {}
        self._coming: dict[Key, Row] | None = None
        self._late: set[Key] = set()
        self._steps: Iterator[None] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._value

    def key_at(self, index: int) -> Key:
        return self._entries[-1 - index if self._arranged_by[2] else index]

    def row_at(self, index: int) -> Row:
        return self.all[self.key_at(index)]

    def index(self, key: Key | None) -> int | None:
        """Where a visible row stands."""
        if key is None or key not in self._value:
            return None
        place = self._place(key)
        return len(self._entries) - 1 - place if self._arranged_by[2] else place

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        return self.all[self.cursor] if self.cursor is not None and self.cursor in self._value else None

    @property
    def any_selected(self) -> bool:
        """Whether verbs have something to act on."""
        return self.current is not None or any(key in self._value for key in self.marks)

    def selected(self) -> list[Row]:
        """What verbs act on: the visible marked rows in their order, else the one under the cursor."""
        if marked := sorted(i for i in map(self.index, self.marks) if i is not None):
            return [self.row_at(i) for i in marked]
        return [] if self.current is None else [self.current]

    def load(self, rows: Iterable[Row]) -> None:
        """Replace every row; cursor and marks stay with their keys."""
        self._replace({self.key(row): row for row in rows})

    def sync(self, rows: Mapping[Key, Row]) -> bool:
        """Become these rows; cheap when most are the objects that are here. True when the order changed."""
        present = self.all if self._coming is None else self._coming
        if not present:
            self._replace(dict(rows))
            return True
        changed: dict[Key, Row | None] = {k: row for k, row in rows.items() if present.get(k) is not row}
        changed |= dict.fromkeys(present.keys() - rows.keys())
        if len(changed) <= max(len(present) // 8, _STEP):
            return self.update(changed)
        self._replace(dict(rows))
        return True

    def _replace(self, rows: dict[Key, Row]) -> None:
        self._coming = rows
        self._texts.clear()
        self._begin()

    def update(self, changed: Mapping[Key, Row | None]) -> bool:
        """Apply new rows (None = gone); True when the order or number of visible rows changed."""
        before = self.index(self.cursor)
        moved = False
        for key, row in changed.items():
            moved |= self._remove(key) if row is None else self._put(key, row)
        if self._steps is not None:
            self._late |= changed.keys()
            if self._coming is not None:
                self._coming |= {key: row for key, row in changed.items() if row is not None}
                for key in (key for key, row in changed.items() if row is None):
                    self._coming.pop(key, None)
        if moved:
            self._settle(before)
        return moved

    def remembered(self, text: Callable[[Row], str]) -> Callable[[Row], str]:
        """``text``, made once for each row: what the next letter of a filter looks at is here already."""
        known, key_of = self._texts, self.key

        def remembered(row: Row) -> str:
            key = key_of(row)
            found = known.get(key)
            if found is None:
                found = known[key] = text(row)
            return found

        return remembered

    def filter(self, test: Callable[[Row], bool] | None) -> None:
        self._test = test
        self._begin()

    def sort_by(self, column: str, *, reverse: bool | None = None) -> None:
        self.sort = column
        self.reverse = self.columns[column].descending if reverse is None else reverse
        self._begin()

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

    # arranging

    @property
    def arranging(self) -> bool:
        return self._steps is not None

    def arrange(self, seconds: float = float("inf")) -> bool:
        """Go on with what was begun for about so long; True when it is done."""
        until = time.perf_counter() + seconds
        while self._steps is not None:
            next(self._steps, None)
            if time.perf_counter() > until:
                break
        return self._steps is None

    def _begin(self) -> None:
        source = self.all if self._coming is None else self._coming
        self._late = set()
        self._steps = self._arranged(source)
        if len(source) <= _AT_ONCE:
            self.arrange()

    def _arranged(self, source: dict[Key, Row]) -> Iterator[None]:
        """Make the arrangement of ``source`` in small steps; the last one puts it in place."""
        by = value, test, _ = self.columns[self.sort].sort, self._test, self.reverse
        values: dict[Key, Any] = {}
        runs: list[list[Key]] = []
        keys: list[Any] = sorted(source)  # sorting is stable: what is equal stays in the order of the keys
        yield
        for start in range(0, len(keys), _STEP):
            found = [
                key
                for key in keys[start : start + _STEP]
                if key in source and (test is None or test(source[key]))
            ]
            values |= {key: value(source[key]) for key in found}
            found.sort(key=values.__getitem__)
            runs.append(found)
            while len(runs) > 1 and len(runs[-1]) >= len(runs[-2]):
                _merge(runs, values)
            yield
        while len(runs) > 1:
            _merge(runs, values)
            yield
        entries = runs[0] if runs else []
        before = self.index(self.cursor)
        self._steps, self._coming = None, None
        if source is not self.all:
            self.all = source
            self.marks &= source.keys()
            self._changes += 1
            self.versions = dict.fromkeys(source, self._changes)
        self._value, self._entries, self._arranged_by = values, entries, by
        for key in self._late:
            if key in source:
                self._put(key, source[key])
            else:
                self._hide(key)
        self._settle(before)

    def _settle(self, before: int | None) -> None:
        """Give the cursor a row when its own is gone: the one that took its place."""
        if self.cursor is None or self.cursor not in self._value:
            self.cursor = self.key_at(min(before or 0, len(self) - 1)) if self._entries else None
        if self.range_from is not None and self.range_from not in self._value:
            self.range_from = None

    def _put(self, key: Key, row: Row) -> bool:
        self.all[key] = row
        self._texts.pop(key, None)
        self._changes += 1
        self.versions[key] = self._changes
        value_of, test, _ = self._arranged_by
        if test is not None and not test(row):
            return self._hide(key)
        value = value_of(row)
        if key in self._value and self._value[key] == value:
            return False
        self._hide(key)
        self._value[key] = value
        self._entries.insert(self._place(key), key)
        return True

    def _remove(self, key: Key) -> bool:
        self.all.pop(key, None)
        self.versions.pop(key, None)
        self._texts.pop(key, None)
        self.marks.discard(key)
        return self._hide(key)

    def _hide(self, key: Key) -> bool:
        if key not in self._value:
            return False
        del self._entries[self._place(key)]
        del self._value[key]
        return True

    def _place(self, key: Key) -> int:
        """Where a key that has a value stands, or belongs, in ascending order."""
        values = self._value
        return bisect_left(self._entries, (values[key], key), key=lambda other: (values[other], other))


def _merge(runs: list[list[Key]], values: Mapping[Key, Any]) -> None:
    """The last two sorted runs become one: sorting finds them and only merges."""
    last = runs.pop()
    runs[-1] += last
    runs[-1].sort(key=values.__getitem__)
