"""A network cut one way or both, and daemons that are frozen, for longer than a node may be silent."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hakuriver.paths import host_path
from tests.chaos.history import Job
from tests.chaos.lab import Lab, lab
from tests.chaos.proxy import Mood
from tests.chaos.work import broken, heard, node_state, reaches, submit, task_of
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


def make_jobs(silence: float) -> dict[int, Job]:
    """One that ends before its node can be missed, one that outlives that, one of bad times."""
    kinds = ((0.4, "exit 7"), (2 * silence, "kill -SEGV $$"), (0.1, "exit 0"))
    return {(nonce := next(nonces)): Job(nonce, pause, 50, end) for pause, end in kinds}


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
    moods = replace(to_host, silent=silent), replace(to_runner, silent=silent)
    cut_for_long(one, *moods, missed=missed, silence=SILENCE)


def cut_for_long(
    made: Lab, to_host: Mood, to_runner: Mood, *, missed: bool, silence: float, kind: str | None = None
) -> None:
    """A node of jobs has bad weather for longer than the timeout: nothing of them is lost."""
    jobs = make_jobs(silence)
    short, long, late = jobs.values()
    reaches(made, submit(made, short, kind, node="n0"), "running", "failed")
    running = submit(made, long, kind, node="n0")
    before = reaches(made, running, "running")
    made.to_host.mood, made.to_runners[0].mood = to_host, to_runner
    try:
        cut = time.monotonic()
        if missed:
            until(lambda: node_state(made) == "unreachable", "the node is missed", seconds=15)
            assert task_of(made, running)["state"] == "running"
            assert "n0" in task_of(made, running)["reason"]
        waits = submit(made, late, kind, node="n0")
        until(lambda: time.monotonic() > cut + silence * 1.5, "longer than the timeout")
        if not missed:
            heard(made)
        assert task_of(made, waits)["state"] != "lost"
    finally:
        made.weather(Mood())
    until(lambda: node_state(made) == "online", "the node is back", seconds=30)
    assert broken(made, jobs) == []
    after = task_of(made, running)
    assert (after["attempt"], after["started_at"]) == (1, before["started_at"])


@pytest.mark.parametrize("who", ["host", "runner", "both"])
def test_frozen_for_longer_than_the_timeout(one: Lab, who: str) -> None:
    freeze_for_long(one, who, silence=SILENCE)
    states = {task["state"] for task in one.ask("GET", host_path("tasks"), {"limit": 1000})["items"]}
    assert states == {"completed", "failed"}


def freeze_for_long(made: Lab, who: str, *, silence: float, kind: str | None = None) -> None:
    """Host, the runner of jobs, or both are frozen for longer than the timeout: nothing of them is lost."""
    victims = {"host": [made.host], "runner": made.runners[:1], "both": [made.host, made.runners[0]]}[who]
    jobs = make_jobs(silence)
    short, long, late = jobs.values()
    submit(made, short, kind, node="n0")
    running = submit(made, long, kind, node="n0")
    reaches(made, running, "running")
    for victim in victims:
        victim.send(signal.SIGSTOP)
    frozen = time.monotonic()
    try:
        if who == "runner":
            until(lambda: node_state(made) == "unreachable", "the node is missed", seconds=15)
            submit(made, late, kind, node="n0")
        until(lambda: time.monotonic() > frozen + silence * 1.5, "longer than the timeout")
    finally:
        for victim in victims:
            victim.send(signal.SIGCONT)
    if who != "runner":
        # a host that was away itself has missed nobody
        assert node_state(made) == "online"
        submit(made, late, kind, node="n0")
    assert broken(made, jobs) == []
