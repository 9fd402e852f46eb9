"""Rows keep cursor and marks by key, and their order equals a plain sort, after any history."""

from __future__ import annotations

import time
from itertools import zip_longest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui.peer import task
from tui.catalog import TASK_COLUMNS
from tui.columns import Column, widths
from tui.rows import Rows

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


def in_slices(rows: Rows[Any, Any]) -> float:
    """Finish an arrangement as the table does; returns the longest time without a pause."""
    longest = 0.0
    while rows.arranging:
        started = time.thread_time()
        rows.arrange(0.008)
        longest = max(longest, time.thread_time() - started)
    return longest


def test_a_hundred_thousand_tasks() -> None:
    first = task(0)
    tasks = {id: first | {"id": id} for id in range(100_000)}
    rows = Rows(lambda each: each["id"], TASK_COLUMNS, "id")
    started = time.thread_time()
    rows.sync(tasks)
    assert rows.arranging and len(rows) == 0, "it is only begun"
    assert in_slices(rows) < 0.1
    for key in range(1000):
        rows.update({key: task(key, state="running")})
    rows.update({100_001: task(100_001)})
    assert time.thread_time() - started < 1.0
    assert rows.key_at(0) == 100_001
    rows.filter(lambda each: each["state"] == "running")
    assert in_slices(rows) < 0.1
    assert len(rows) == 1000


@given(
    st.lists(st.dictionaries(st.integers(0, 30), st.none() | st.integers(0, 5), max_size=5), max_size=6),
    st.lists(st.sampled_from(["load", "filter", "sort", "step"]), max_size=6),
)
def test_what_changes_while_rows_are_arranged_is_not_lost(
    history: list[dict[int, int | None]], acts: list[str]
) -> None:
    truth: dict[int, Pair] = {key: (key, key % 4) for key in range(20)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tui.rows._AT_ONCE", -1)
        patch.setattr("tui.rows._STEP", 3)
        rows = made({})
        rows.sync(truth)
        for step, act in zip_longest(history, acts):
            if act == "load":
                rows.load(truth.values())
            elif act == "filter":
                rows.filter(lambda pair: pair[1] != 3)
            elif act == "sort":
                rows.sort_by("key")
            elif act == "step":
                rows.arrange(0)
            for key, value in (step or {}).items():
                truth.pop(key, None)
                if value is not None:
                    truth[key] = (key, value)
                rows.update({key: truth.get(key)})
        rows.arrange()
    assert rows.all == truth
    visible = {key for key, (_, value) in truth.items() if "filter" not in acts or value != 3}
    at = rows.columns[rows.sort].sort
    expected = sorted(((at(truth[key]), key) for key in visible), reverse=rows.reverse)
    assert [rows.key_at(i) for i in range(len(rows))] == [key for _, key in expected]


def test_columns_take_what_their_texts_need() -> None:
    sized = {c.id: width for c, width in widths(TASK_COLUMNS, 158, {"name": 24, "command": 40, "detail": 80})}
    assert sized["name"] == 24 and sized["command"] == 40
    assert "gpus" not in sized and "memory" not in sized, "nobody has any"
    assert sum(sized.values()) + 2 * (len(sized) - 1) == 158
    long = {c.id: width for c, width in widths(TASK_COLUMNS, 158, {"command": 400, "detail": 400})}
    assert long["detail"] >= 40 and long["command"] > long["detail"], "they share"
    narrow = {c.id for c, _ in widths(TASK_COLUMNS, 78, {"name": 24})}
    assert {"name", "detail", "command"} <= narrow, "why a task waits is seen on a small terminal, too"
    assert not {"owner", "cores", "gpus"} & narrow


@given(
    st.integers(0, 300),
    st.dictionaries(st.sampled_from([column.id for column in TASK_COLUMNS]), st.integers(0, 200)),
)
def test_columns_never_take_more_than_there_is(available: int, needs: dict[str, int]) -> None:
    sized = widths(TASK_COLUMNS, available, needs)
    needed = sum(width for _, width in sized) + 2 * (len(sized) - 1)
    kept = [column for column, _ in sized]
    assert needed <= available or all(column.drop == 0 for column in kept)
    if any(column.drop == 0 and column.flex for column in kept) and needed <= available:
        assert needed == available
