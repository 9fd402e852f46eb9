"""The checker itself must see every kind of violation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.history import Job, Seen, violations

JOB = Job(5, 0.1, 2, "exit 7")
TASK = {"id": 1, "state": "failed", "exit_code": 7, "signal": None, "executor": "process", "reason": ""}
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
        ([GOOD], [*JOURNAL, "S 6 1"], "without having been submitted"),
        ([replace(GOOD, task=TASK | {"exit_code": 0})], JOURNAL, "told as"),
        ([replace(GOOD, task=TASK | {"state": "lost"})], JOURNAL, "told as"),
        ([replace(GOOD, stdout=GOOD.stdout * 2)], JOURNAL, "stdout has"),
        ([replace(GOOD, stderr=b"")], JOURNAL, "stderr has"),
    ],
)
def test_what_it_sees(seen: list[Seen], journal: list[str], words: str) -> None:
    assert any(words in line for line in violations({5: JOB}, {5: seen}, journal))


def test_a_signal_in_a_container_is_128_and_more() -> None:
    job = replace(JOB, end="kill -SEGV $$")
    assert job.outcome("process") == ("failed", None, 11)
    assert job.outcome("docker") == ("failed", 139, None)
