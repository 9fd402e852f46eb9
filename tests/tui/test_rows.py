"""Rows keep cursor and marks by key, and their order equals a plain sort, after any history."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from tests.tui.peer import task
from tui.facts import TASK_COLUMNS
from tui.rows import Column, Rows, widths

Pair = tuple[int, int]
COLUMNS = [
    Column[Pair]("key", "KEY", 4, lambda r: str(r[0]), lambda r: r[0]),
    Column[Pair]("value", "VALUE", 4, lambda r: str(r[1]), lambda r: r[1], descending=True),
]


def made(pairs: dict[int, int], sort: str = "value") -> Rows[int, Pair]:
    rows: Rows[int, Pair] = Rows(lambda pair: pair[0], COLUMNS, sort)
    rows.load(pairs.items())
    return rows


@given(
    st.dictionaries(st.integers(0, 30), st.integers(0, 5)),
    st.lists(st.dictionaries(st.integers(0, 30), st.none() | st.integers(0, 5), max_size=5), max_size=20),
    st.sampled_from(["key", "value"]),
    st.booleans(),
)
def test_order_equals_a_plain_sort(
    start: dict[int, int], history: list[dict[int, int | None]], sort: str, reverse: bool
) -> None:
    rows = made(start)
    rows.filter(lambda pair: pair[1] != 3)
    rows.sort_by(sort, reverse=reverse)
    truth = dict(start)
    for step in history:
        cursor, marks = rows.cursor, set(rows.marks)
        rows.update({key: None if value is None else (key, value) for key, value in step.items()})
        for key, value in step.items():
            truth.pop(key, None)
            if value is not None:
                truth[key] = value
        visible = {key for key, value in truth.items() if value != 3}
        if cursor in visible:
            assert rows.cursor == cursor
        assert rows.cursor in visible or not visible
        assert rows.marks == marks & truth.keys()
        at = COLUMNS[0].sort if sort == "key" else COLUMNS[1].sort
        expected = sorted(((at((k, truth[k])), k) for k in visible), reverse=reverse)
        assert [rows.key_at(i) for i in range(len(rows))] == [key for _, key in expected]
        assert all(rows.index(rows.key_at(i)) == i for i in range(len(rows)))
        rows.toggle_mark()


def test_cursor_takes_the_place_of_a_vanished_row() -> None:
    rows = made({1: 1, 2: 2, 3: 3, 4: 4}, sort="key")
    rows.move_to(1)
    rows.update({2: None})
    assert rows.cursor == 3
    rows.update({3: None, 4: None})
    assert rows.cursor == 1


def test_range_marks_what_the_cursor_passes() -> None:
    rows = made({key: key for key in range(10)}, sort="key")
    rows.move_to(2)
    rows.toggle_range()
    rows.move_to(5)
    assert rows.marks == {2, 3, 4, 5}
    rows.toggle_range()
    rows.move_to(9)
    assert rows.marks == {2, 3, 4, 5}
    assert [key for key, _ in rows.selected()] == [2, 3, 4, 5]


def test_verbs_never_act_on_marks_that_the_filter_hides() -> None:
    rows = made({1: 1, 2: 2}, sort="key")
    rows.toggle_all()
    rows.filter(lambda pair: pair[0] == 2)
    assert [key for key, _ in rows.selected()] == [2]


def test_a_hundred_thousand_tasks() -> None:
    tasks = [task(id) for id in range(100_000)]
    rows = Rows(lambda each: each["id"], TASK_COLUMNS, "id")
    started = time.process_time()
    rows.load(tasks)
    assert time.process_time() - started < 1.0
    started = time.process_time()
    for key in range(1000):
        rows.update({key: task(key, state="running")})
    rows.update({100_001: task(100_001)})
    assert time.process_time() - started < 0.5
    assert rows.key_at(0) == 100_001


@given(st.integers(0, 300))
def test_columns_never_take_more_than_there_is(available: int) -> None:
    sized = widths(TASK_COLUMNS, available)
    needed = sum(width for _, width in sized) + 2 * (len(sized) - 1)
    kept = [column for column, _ in sized]
    assert needed <= available or all(column.drop == 0 for column in kept)
    if any(column.drop == 0 and column.flex for column in kept) and needed <= available:
        assert needed == available
