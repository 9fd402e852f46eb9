"""What people read of queue, batches and machines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.cli import batch, explain, node, wishes

GPU: dict[str, Any] = {
    "index": 0,
    "uuid": "GPU-1",
    "model": "A100",
    "memory": 80 * 10**9,
    "memory_used": 2 * 10**9,
    "utilization": 97.0,
    "temperature": 61.0,
    "power": 300.0,
    "numa": 1,
    "task": None,
    "external": False,
    "lost": None,
    "mig": False,
    "parent": None,
    "processes": [],
}
TASK: dict[str, Any] = {
    "id": 7,
    "priority": 0,
    "after": [],
    "on_hold": False,
    "time_limit": None,
    "retries": 0,
    "retried": 0,
    "batch": 5,
    "batch_index": 2,
    "batch_size": 10,
    "max_running": None,
    "wants": {},
}


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({}, "free"),
        ({"task": 5}, "task 5"),
        ({"task": 5, "external": True}, "task 5, external"),
        ({"external": True}, "external"),
        (
            {"external": True, "processes": [{"pid": 1, "user": "ann", "memory": None, "task": None}]},
            "external (ann)",
        ),
        ({"lost": "GPU is lost", "task": 5}, "lost: GPU is lost, task 5"),
        ({"mig": True}, "its instances"),
    ],
)
def test_whose_a_gpu_is(facts: dict[str, Any], says: str) -> None:
    row = node._gpu_row(GPU | facts)
    assert getattr(row[2], "text", row[2]) == says
    assert row[3:6] == ["2G/80G", "97%", "61°C"]


def test_free_gpus_are_those_that_a_task_may_get() -> None:
    gpus = [GPU, GPU | {"task": 5}, GPU | {"external": True}, GPU | {"lost": "x"}, GPU | {"mig": True}]
    assert node._gpus(gpus) == "1/4 free"
    assert node._gpus([]) == ""


@given(st.sets(st.integers(0, 300)))
def test_ranges_say_every_number_once(numbers: set[int]) -> None:
    text = node.ranges(list(numbers))
    found = [
        number
        for part in filter(None, text.split(","))
        for number in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
    ]
    assert found == sorted(numbers)
    assert len(text.split(",")) <= max(1, sum(number - 1 not in numbers for number in numbers))


def test_a_plain_task_has_no_wishes() -> None:
    assert not any(value for _, value in wishes.facts(TASK))
    assert wishes.batch(TASK | {"batch_size": 1}) == "5"


def test_wishes_are_said_as_they_were_asked() -> None:
    wants = {
        "gpu_count": 2,
        "gpu_model": "a100",
        "gpu_memory": 40 * 10**9,
        "labels": {"room": "b12"},
        "placement": "pack",
        "pin": True,
        "shm_size": 2 * 10**9,
        "private_network": True,
        "ulimits": {"nofile": [1024, 4096], "memlock": [-1, -1]},
        "notice": {"seconds": 300},
    }
    asked = {
        "priority": -3,
        "after": [1, 2],
        "on_hold": True,
        "time_limit": 7200,
        "retries": 2,
        "retried": 1,
        "wants": wants,
        "max_running": 4,
    }
    found = {label: value for label, value in wishes.facts(TASK | asked) if value}
    assert found == {
        "priority": "-3",
        "after": "1, 2",
        "on hold": "until hakuriver task release 7",
        "time limit": "2h00m, USR1 5m00s before",
        "retries": "1 of 2 used",
        "wants gpus": "2 a100, each with 40G or more",
        "labels": "room=b12",
        "placement": "pack",
        "pinned": "its cores are nobody else's",
        "shm size": "2G",
        "ulimits": "memlock=unlimited nofile=1024:4096",
        "private": "network",
    }
    assert wishes.batch(TASK | asked) == "5, task 3 of 10, at most 4 at a time"


def test_a_batch_is_one_line_in_the_order_of_life() -> None:
    states = {"failed": 1, "running": 3, "someday": 1, "pending": 5}
    view = {"batch": 12, "size": 10, "states": states, "max_running": 3}
    line = "batch 12: 10 tasks · 5 pending · 3 running · 1 failed · 1 someday · at most 3 at a time"
    assert batch.line(view) == line
    view = {"batch": 1, "size": 1, "states": {"completed": 1}, "max_running": None}
    assert batch.line(view) == "batch 1: 1 task · 1 completed"


def test_an_explanation_is_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=10, seconds=50)).isoformat()
    nodes = [
        {"node": "n1", "fits": True, "why": "there is room", "tasks": [], "at": None},
        {"node": "n2", "fits": False, "why": "needs 4 cores", "tasks": list(range(1, 11)), "at": soon},
        {"node": "n3", "fits": False, "why": "needs 2 GPUs", "tasks": [5], "at": None},
    ]
    explain._show(
        {
            "id": 31,
            "state": "pending",
            "reason": "waiting for 4 cores",
            "ahead": 1,
            "reserved": "n2",
            "reserved_at": soon,
            "nodes": nodes,
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == ["why        waiting for 4 cores", "before it  1 waiting task"]
    assert lines[4].startswith("room kept  on n2, enough ")
    assert "(in 10m" in lines[4]
    assert lines[7].split() == ["n1", "fits", "there", "is", "room", "-", "-"]
    assert "1, 2, 3, 4, 5, 6, 7, 8 +2" in lines[8]
    assert "(in 10m" in lines[8]
    assert lines[9].endswith("5                          unknown")
    past = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    assert explain.expected(past) == "any moment"
