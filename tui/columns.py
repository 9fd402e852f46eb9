"""The columns of a table, and how they share its width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Row = TypeVar("Row")
_BUCKET = 4
"""Widths follow the content in such steps: a table must not jump at every letter."""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column. ``sort`` gives values that compare with each other; ``tone`` names a colour by meaning.

    ``width`` is the least width in cells; the column grows with its content up to ``most``, or with
    ``flex`` as far as there is room, shared with the other flexible ones. Columns with the highest ``drop``
    leave first when the table is too narrow; 0 stays always. An ``optional`` one is there only when it says
    something.
    """

    id: str
    title: str
    width: int
    text: Callable[[Row], str]
    sort: Callable[[Row], Any]
    tone: Callable[[Row], str] = lambda _: ""
    most: int = 0
    flex: int = 0
    drop: int = 0
    right: bool = False
    descending: bool = False  # the way round that people expect first
    ticks: bool = False  # the text depends on the clock
    optional: bool = False

    @property
    def elastic(self) -> bool:
        """Whether its width or presence depends on what stands in it."""
        return bool(self.most or self.flex or self.optional)


def wanted(cells: int) -> int:
    """The width to ask for when the longest text has so many cells."""
    return -(-cells // _BUCKET) * _BUCKET


def widths(
    columns: Iterable[Column[Any]], available: int, needed: Mapping[str, int], gap: int = 2
) -> list[tuple[Column[Any], int]]:
    """Which columns fit into ``available`` cells, and how wide each becomes.

    ``needed``: the width of the longest text of each elastic column. Columns with a limit grow first, with
    up to half of what is spare; the flexible ones share the rest by ``flex``; the last of them gets what
    nobody needs.
    """
    shown = [column for column in columns if not column.optional or needed.get(column.id)]
    while len(shown) > 1 and sum(c.width + gap for c in shown) - gap > available:
        worst = max(shown, key=lambda c: c.drop)
        if worst.drop == 0:
            break
        shown.remove(worst)
    spare = max(0, available - sum(c.width + gap for c in shown) + gap)
    size = {column.id: column.width for column in shown}
    limited = [column for column in shown if column.most]
    flexible = [column for column in shown if column.flex]
    room = spare // 2 if flexible else spare
    for column in limited:
        more = max(0, min(room, min(column.most, needed.get(column.id, 0)) - column.width))
        size[column.id] += more
        room -= more
        spare -= more
    hungry = list(flexible)
    while hungry and spare > 0:
        shares = sum(column.flex for column in hungry)
        missing = {column.id: max(0, needed.get(column.id, 0) - size[column.id]) for column in hungry}
        full = [column for column in hungry if missing[column.id] <= spare * column.flex // shares]
        if not full:
            for column in hungry:
                size[column.id] += spare * column.flex // shares
            spare -= sum(spare * column.flex // shares for column in hungry)
            break
        for column in full:
            size[column.id] += missing[column.id]
            spare -= missing[column.id]
            hungry.remove(column)
    if flexible:
        size[flexible[-1].id] += spare
    return [(column, size[column.id]) for column in shown]
