"""A network cut one way or both, and daemons that are frozen, for longer than a node may be silent."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator

import pytest

from hakuriver.paths import host_path
from tests.chaos.history import Job
from tests.chaos.lab import Lab, lab
from tests.chaos.proxy import Mood
from tests.chaos.work import heard, node_state, reaches, settled, submit, task_of
from tests.waiting import until

SILENCE = 3.0  # seconds of the node timeout: more than a busy machine takes for a heartbeat
LOST_THERE, LOST_BACK = Mood(lose_request=1), Mood(lose_answer=1)
nonces = itertools.count(1)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A host and one runner for the module, in good weather again after each test."""
    environ = {"HAKURIVER_TIMING_HEARTBEAT_TIMEOUT_FACTOR": f"{SILENCE / 0.3:g}"}
    with lab(tmp_path_factory.mktemp("network") / "lab", seed=1, nodes=1, environ=environ) as made:
        yield made


def jobs() -> tuple[Job, Job, Job]:
    """One that ends before its node can be missed, one that outlives that, one of bad times."""
    seconds = (0.4, 6.0, 0.1)
    ends = ("exit 7", "kill -SEGV $$", "exit 0")
    first, second, third = (
        Job(next(nonces), pause, 50, end) for pause, end in zip(seconds, ends, strict=True)
    )
    return first, second, third


def broken(made: Lab, *given: Job) -> list[str]:
    """What is wrong with these jobs; those of other tests are theirs."""
    mine = {job.nonce: job for job in given}
    return [line for line in settled(made, mine) if "without having been submitted" not in line]


@pytest.mark.parametrize(
    ("to_host", "to_runner", "missed", "silent"),
    [
        (LOST_THERE, Mood(), True, False),
        (LOST_BACK, Mood(), False, True),
        (Mood(), LOST_THERE, False, False),
        (Mood(), LOST_BACK, False, True),
        (LOST_THERE, LOST_THERE, True, False),
        (LOST_THERE, LOST_THERE, True, True),
    ],
    ids=["reports", "their answers", "orders", "answers to orders", "everything", "everything, silently"],
)
def test_a_cut(one: Lab, to_host: Mood, to_runner: Mood, missed: bool, silent: bool) -> None:
    short, long, late = jobs()
    reaches(one, submit(one, short), "running", "failed")
    running = submit(one, long)
    before = reaches(one, running, "running")
    one.to_host.mood = Mood(to_host.lose_request, to_host.lose_answer, silent=silent)
    one.to_runners[0].mood = Mood(to_runner.lose_request, to_runner.lose_answer, silent=silent)
    try:
        cut = time.monotonic()
        if missed:
            until(lambda: node_state(one) == "unreachable", "the node is missed", seconds=15)
            assert task_of(one, running)["state"] == "running"
            assert "n0" in task_of(one, running)["reason"]
        waits = submit(one, late)
        until(lambda: time.monotonic() > cut + SILENCE * 1.5, "longer than the timeout")
        if not missed:
            heard(one)
        assert task_of(one, waits)["state"] != "lost"
    finally:
        one.weather(Mood())
    until(lambda: node_state(one) == "online", "the node is back", seconds=30)
    assert broken(one, short, long, late) == []
    after = task_of(one, running)
    assert (after["attempt"], after["started_at"]) == (1, before["started_at"])


@pytest.mark.parametrize("who", ["host", "runner", "both"])
def test_frozen_for_longer_than_the_timeout(one: Lab, who: str) -> None:
    victims = {"host": [one.host], "runner": one.runners, "both": one.daemons}[who]
    short, long, late = jobs()
    submit(one, short)
    running = submit(one, long)
    reaches(one, running, "running")
    for victim in victims:
        victim.send(signal.SIGSTOP)
    frozen = time.monotonic()
    try:
        if who == "runner":
            until(lambda: node_state(one) == "unreachable", "the node is missed", seconds=15)
            submit(one, late)
        until(lambda: time.monotonic() > frozen + SILENCE * 1.5, "longer than the timeout")
    finally:
        for victim in victims:
            victim.send(signal.SIGCONT)
    if who != "runner":
        # a host that was away itself has missed nobody
        assert node_state(one) == "online"
        submit(one, late)
    assert broken(one, short, long, late) == []
    states = {task["state"] for task in one.ask("GET", host_path("tasks"), {"limit": 1000})["items"]}
    assert states == {"completed", "failed"}
