"""GPUs and nodes in little room: every line is as wide as it was asked to be, and says who has what."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.tui.peer import gpu, gpu_node, node, running
from tui.facts import node_reason, node_state
from tui.gpus import Held, glyph, held_by, rows_of, who
from tui.matrix import capacity, cell, columns_of, describe
from tui.matrix import rows_of as places_of
from tui.targets import read
from tui.widgets import meters
from tui.widgets.tones import Piece

TASKS = {7: running(7, name="train", owner="bob")}


def text(pieces: list[Piece]) -> str:
    return "".join(part for part, _ in pieces)


@pytest.mark.parametrize(
    ("facts", "held", "sign", "says"),
    [
        ({}, Held.FREE, "·", ""),
        ({"task": 7, "utilization": 97.0}, Held.BUSY, "█", "7 train · bob"),
        ({"task": 7, "utilization": 0.0}, Held.IDLE, "▁", "7 train · bob"),
        ({"task": 8, "utilization": None}, Held.BUSY, "▁", "8"),
        ({"external": True, "utilization": 50.0}, Held.EXTERNAL, "▒", "external"),
        (
            {"external": True, "processes": [{"pid": 4, "user": "carol", "memory": 1, "task": None}]},
            Held.EXTERNAL,
            "▒",
            "external: carol",
        ),
        ({"lost": "fell off the bus", "task": 7}, Held.LOST, "✗", "lost: fell off the bus"),
        ({"mig": True}, Held.SPLIT, "/", "split into instances"),
    ],
)
def test_whose_a_gpu_is(facts: dict[str, Any], held: Held, sign: str, says: str) -> None:
    found = gpu(0, **facts)
    assert (held_by(found), glyph(found), who(found, TASKS.get)) == (held, sign, says)


def test_a_strip_has_a_cell_for_each_gpu() -> None:
    found = gpu_node("n1", 8, held={0: 7, 1: 7})
    found["gpus"][5]["external"] = True
    found["gpus"][7]["lost"] = "gone"
    assert text(meters.gpu_cells(found, 8)) == "██···▒·✗"
    assert text(meters.gpu_cells(found, 5)) == "██··…"
    assert text(meters.gpu_strip(found, 40)).split() == [
        "gpu",
        "0█",
        "1█",
        "2·",
        "3·",
        "│4·",
        "5▒",
        "6·",
        "7✗",
        "2/8",
    ]
    assert "no driver" in text(meters.gpu_strip(node("n2", unavailable={"gpu": "no driver"}), 30))


words = st.text(alphabet="aB3 -世ü\x1b", max_size=40)
gpu_facts = st.fixed_dictionaries(
    {
        "index": st.integers(0, 806),
        "model": words,
        "memory": st.integers(0, 10**12),
        "memory_used": st.none() | st.integers(0, 10**12),
        "utilization": st.none() | st.floats(0, 100),
        "temperature": st.none() | st.floats(0, 120),
        "power": st.none() | st.floats(0, 999),
        "task": st.none() | st.integers(1, 10**6),
        "external": st.booleans(),
        "lost": st.none() | words,
    }
)


@given(gpu_facts, st.integers(40, 220))
def test_a_gpu_line_is_exactly_as_wide_as_there_is_room(facts: dict[str, Any], width: int) -> None:
    line = meters.gpu_line(gpu(**facts), TASKS.get, width)
    assert sum(cell_len(part) for part, _ in line) == width


@given(st.integers(0, 20), st.integers(30, 120))
def test_a_strip_is_exactly_as_wide_as_there_is_room(count: int, width: int) -> None:
    found = gpu_node("n1", count)
    assert cell_len(text(meters.gpu_strip(found, width))) == width
    assert cell_len(text(meters.gpu_cells(found, 16))) == 16
    assert cell_len(text(meters.cpu(found, width))) == width
    assert cell_len(text(meters.memory(found, width))) == width


def test_drained_and_out_of_reach_are_both_said() -> None:
    drained = {"drained": True, "drain_reason": "new disk"}
    assert text(node_state(node("n1", **drained))) == "◇ drained"
    away = node("n1", state="unreachable", reason="no heartbeat", **drained)
    assert text(node_state(away)) == "▲ unreachable, drained"
    assert node_reason(away) == "new disk; no heartbeat"


def test_every_gpu_is_a_row() -> None:
    rows = rows_of([gpu_node("n1", 2, held={1: 7}), node("n2")], TASKS.get)
    assert list(rows) == [("n1", 0), ("n1", 1)]
    assert rows["n1", 1].task is TASKS[7]


def test_the_matrix_has_a_line_for_each_numa_node_with_its_own_gpus() -> None:
    rows = places_of([gpu_node("g", 4, held={0: 7}), node("c"), node("gone", state="removed")])
    assert [row.key for row in rows] == [("", None), ("c", None), ("g", None), ("g", 0), ("g", 1)]
    assert columns_of(rows) == [0, 1, 2, 3]
    words = read("g::0,3 g:0::1")
    first, second = rows[3], rows[4]
    assert cell(first, 0, words, 0) == ("■7", "warn"), "it is ours, and somebody has it"
    assert cell(first, 1, words, 0) == ("■2", "accent"), "of the second task there"
    assert cell(first, 2, words, 0) is None and cell(second, 2, words, 0) == ("○", "")
    assert cell(rows[0], 2, (), 2) == ("■2", "accent")
    assert capacity(first) == ("32 cpus", "256G") and capacity(rows[1]) == ("5/8", "12G")
    assert describe(rows[0], 3, rows, TASKS.get) == "3 GPUs anywhere: 1 node could give them now"
    assert describe(rows[0], 4, rows, TASKS.get) == "4 GPUs anywhere: 0 nodes could give them now"
    assert describe(first, 0, rows, TASKS.get).endswith("97% · 71°C · 7 train · bob")
    assert describe(rows[2], None, rows, TASKS.get) == "g · ● online · 48 cores free · 3 of 4 GPUs free"
