"""The checker itself must see every kind of violation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.history import Job, Seen, violations
from tests.chaos.memory import growth

JOB = Job(5, 0.1, 2, "exit 7")
TASK = {"id": 1, "attempt": 1, "state": "failed", "exit_code": 7, "signal": None, "executor": "process"}
TASK |= {"reason": ""}
GOOD = Seen(TASK, b"5 1\n5 2\n5 last\n", b"5 1\n5 2\n")
JOURNAL = ["S 5 1", "E 5 1"]


def test_a_good_history() -> None:
    assert violations({5: JOB}, {5: [GOOD]}, JOURNAL) == []


@pytest.mark.parametrize(
    ("seen", "journal", "words"),
    [
        ([], JOURNAL, "0 tasks"),
        ([GOOD, GOOD], JOURNAL, "2 tasks"),
        ([GOOD], ["S 5 1", "S 5 2", "E 5 2"], "not exactly once"),
        ([GOOD], [], "not exactly once"),
        ([GOOD], ["S 5 1", "S 5 1", "E 5 1"], "not exactly once"),
        ([GOOD], [*JOURNAL, "S 6 1"], "without having been submitted"),
        ([GOOD], [*JOURNAL, "O 5 2"], "while another one lived"),
        ([replace(GOOD, task=TASK | {"state": "killed"})], JOURNAL, "told as"),
        ([replace(GOOD, task=TASK | {"exit_code": 0})], JOURNAL, "told as"),
        ([replace(GOOD, task=TASK | {"state": "lost"})], JOURNAL, "told as"),
        ([replace(GOOD, stdout=GOOD.stdout * 2)], JOURNAL, "stdout has"),
        ([replace(GOOD, stderr=b"")], JOURNAL, "stderr has"),
    ],
)
def test_what_it_sees(seen: list[Seen], journal: list[str], words: str) -> None:
    assert any(words in line for line in violations({5: JOB}, {5: seen}, journal))


def test_what_lives_on() -> None:
    assert violations({5: JOB}, {5: [GOOD]}, JOURNAL, {5}) == ["job 5 still runs"]


def test_a_job_that_was_to_be_killed_may_end_either_way() -> None:
    job = replace(JOB, intents=("kill",))
    killed = Seen(TASK | {"state": "killed", "exit_code": None, "signal": 15}, b"5 1\n", b"")
    assert violations({5: job}, {5: [GOOD]}, JOURNAL) == []
    assert violations({5: job}, {5: [killed]}, ["S 5 1"]) == []
    assert violations({5: job}, {5: [killed]}, []) == []
    assert violations({5: job}, {5: [killed]}, ["S 5 1", "S 5 2"]) != []
    assert violations({5: job}, {5: [replace(killed, stdout=b"5 2\n")]}, ["S 5 1"]) != []


def test_a_job_that_may_move_runs_to_its_end_once_more() -> None:
    job, second = replace(JOB, on_node_loss="requeue"), replace(GOOD, task=TASK | {"attempt": 2})
    assert violations({5: job}, {5: [second]}, ["S 5 1", "S 5 2", "E 5 2"]) == []
    assert violations({5: job}, {5: [second]}, ["S 5 1", "E 5 1", "S 5 2", "E 5 2"]) == []
    assert violations({5: job}, {5: [second]}, ["S 5 1", "E 5 1"]) != []
    assert violations({5: job}, {5: [second]}, ["S 5 1", "S 5 2", "S 5 2", "E 5 2"]) != []


def test_growth_is_of_what_is_warm() -> None:
    assert growth([10] * 30 + [100] * 30 + [103] * 30).percent == 3.0
    assert growth([10, 40, 70, *[100] * 57]).percent == 0.0


def test_a_signal_in_a_container_is_128_and_more() -> None:
    job = replace(JOB, end="kill -SEGV $$")
    assert job.outcome("process") == ("failed", None, 11)
    assert job.outcome("docker") == ("failed", 139, None)
