"""What is said about tasks."""

from __future__ import annotations

import pytest

from tests.tui.peer import running, task
from tui.facts import brief, headline, held, how_it_failed, no_log

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
