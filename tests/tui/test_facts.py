"""What is said about tasks."""

from __future__ import annotations

import pytest

from tests.tui.peer import running, task
from tests.tui.peer_environments import environment, new_environment, work
from tui.environments import (
    EnvironmentRow,
    age,
    meter,
    reference_completion,
    sentence,
    status,
    work_of,
    wrong_reference,
)
from tui.environments import brief as brief_work
from tui.facts import brief, brief_detail, environment_used, headline, held, how_it_failed, no_log

HELD = {"intent": "kill", "intent_by": "ann", "intent_due_at": "2026-01-31T12:00:05.000Z"}


def test_a_held_kill_is_one_that_can_be_taken_back() -> None:
    assert held(running(1, **HELD))
    assert not held(running(1, **(HELD | {"intent_due_at": None})))
    assert not held(task(1, **HELD)), "it has ended"


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"state": "pending", "reason": "waiting for 2 cores on n1"}, "pending: waiting for 2 cores on n1"),
        ({"state": "preparing", "reason": ""}, "preparing: it has not started yet"),
        ({"state": "killed", "started_at": None, "reason": "killed by ann"}, "never ran: killed by ann"),
        ({"state": "failed", "started_at": None, "error": "no such image"}, "never ran: no such image"),
        ({"state": "running"}, ""),
        ({"state": "failed"}, ""),
    ],
)
def test_why_there_is_no_log(facts: dict[str, object], says: str) -> None:
    assert no_log(task(1, **facts))[0] == says


def test_how_it_failed() -> None:
    assert how_it_failed(task(1, state="failed", exit_code=7)) == "✗ failed: exit code 7"
    assert (
        how_it_failed(task(1, state="killed_oom", exit_code=None, error="over 2G")) == "✗ killed oom: over 2G"
    )
    assert how_it_failed(task(1)) == how_it_failed(running(1)) == ""


def test_a_script_is_its_first_line() -> None:
    script = task(1, command=["sh", "-c", "\n  for i in 1 2; do\necho $i\ndone\n"])
    assert brief(script) == headline(script) == "sh -c for i in 1 2; do …"
    assert headline(task(1, name="train", command=["sh", "-c", "a\nb"])) == "train"
    assert headline(task(1, command=["echo", "a b\x1b"])) == "echo 'a b␛'"


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("loading torch@1700000000: 1.2G of 5G, 430M/s", "24% 430M/s · loading torch@1700000000"),
        ("fetching torch@1700000000: 512M of 1.0G", "51% · fetching torch@1700000000"),
        ("checking torch@1700000000", "checking torch@1700000000"),
        ("x: 1 of 0, 3M/s", "100% 3M/s · x"),
        ("odd: 1.2.3G of 5G", "odd: 1.2.3G of 5G"),
    ],
)
def test_how_far_a_preparing_task_is_comes_first(reason: str, says: str) -> None:
    assert brief_detail(running(1, state="preparing", reason=reason)) == says
    assert brief_detail(running(1, reason=reason)) == reason, "of others it is only a reason"


def test_the_environment_of_a_task_has_its_version() -> None:
    assert environment_used(running(1, container="torch", version=17)) == "torch@17"
    assert environment_used(running(1, container="torch@16", version=16)) == "torch@16"
    assert environment_used(running(1, container="torch")) == "torch"
    assert environment_used(running(1)) == ""


def test_works_as_sentences_and_meters() -> None:
    assert sentence(work("packing", 1_200_000_000, 5_000_000_000, speed=400e6)) == (
        "packing: 1.2G of 5G, 400M/s, 9s left"
    )
    assert brief_work(work("packing", 1_200_000_000, 5_000_000_000, speed=400e6)) == (
        "24% 400M/s 9s left: packing"
    )
    assert sentence(work("saving", 1_200_000)) == brief_work(work("saving", 1_200_000)) == "saving: 1.2M"
    assert meter(work("x", 1, 2)) == "━━━━━─────"
    assert meter(work("x", 9, 2)) == "━" * 10 and meter(work("x", 9)) == meter(None) == ""


def test_what_an_environment_is_at() -> None:
    bare = new_environment("bare", problem="")
    assert status(EnvironmentRow(bare, {})) == "never packed: no task can use it yet"
    wrong = environment("torch", problem="its tarball is gone")
    assert status(EnvironmentRow(wrong, {})) == "its tarball is gone"
    loading = {"n2": work("loading", 1, 4, speed=1.0), "n1": work("loading", 2)}
    found = work_of(EnvironmentRow(wrong, loading))
    assert found is not None and (found["text"], found["done"], found["total"], found["speed"]) == (
        "2 nodes: loading",
        3,
        None,
        1.0,
    )
    packing = work("packing")
    assert work_of(EnvironmentRow(environment("torch", work=packing), loading)) == packing
    assert age(1000, 1000 + 3600) == "1h00m" and age(0, 86400 * 12) == "12d"


def test_environments_as_tasks_name_them() -> None:
    known = {each["name"]: each for each in (environment("torch"), new_environment("bare"))}
    assert wrong_reference("torch", known) == wrong_reference("torch@1", known) == ""
    assert wrong_reference("NULL", known) == wrong_reference("anything", {}) == ""
    assert reference_completion("to", known) == "torch"
    assert (
        reference_completion("torch@", known) == reference_completion("torch@17", known) == "torch@1700000000"
    )
    assert reference_completion("N", known) == "NULL"
    for complete in ("", "x", "torch", "torch@1700000000", "torch@18", "bare@", "none@"):
        assert reference_completion(complete, known) is None
