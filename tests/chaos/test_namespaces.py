"""Host and nodes in network namespaces of their own, with real cuts between them, each way and both."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.history import Job
from tests.chaos.lab import Lab, lab
from tests.chaos.wires import CAN, Wires, wires
from tests.chaos.work import broken, heard, node_state, reaches, submit, task_of
from tests.waiting import until

pytestmark = pytest.mark.skipif(not CAN, reason="makes network namespaces: needs root and iproute2")
LONG = os.environ.get("CHAOS") == "long"
TIMEOUT, LEASE, GRACE = 1.8, 3.0, 10.0
LENGTHS = (0.3, 2.0, 8.0, 37.0) if LONG else (TIMEOUT * 1.5,)
"""Seconds of a cut: 5 s to 10 min, where 30 s of silence are as much as the 1.8 s here."""
WAYS = ("to the host", "to the node", "cable", "both")
nonces = itertools.count(1000, 1000)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Wires]]:
    """A host and two nodes, three networks."""
    environ = {"HAKURIVER_TIMING_LEASE": str(LEASE)}
    folder = tmp_path_factory.mktemp("namespaces") / "lab"
    with (
        wires("host", "n0", "n1") as network,
        network.inside("host"),
        lab(folder, seed=12, environ=environ, wires=network) as made,
    ):
        yield made, network


class Jobs:
    """Jobs of a test; those of the others are not its own."""

    def __init__(self, made: Lab, first: int) -> None:
        self._made = made
        self._first = first
        self.gate = made.folder / f"gate-{first}"
        self.given: dict[int, Job] = {}

    def submit(
        self, end: str, *, node: str = "", gate: Path | None = None, on_node_loss: str = "keep"
    ) -> int:
        """One that waits until a gate is open, if there is one."""
        nonce = self._first + len(self.given)
        job = Job(nonce, 0, 20, end, on_node_loss=on_node_loss, gate=str(gate or ""))
        self.given[nonce] = job
        return submit(self._made, job, node=node)

    def lands(self, node: str, on_node_loss: str) -> int:
        """One that is free to move and runs on this node; others may run elsewhere."""
        for _ in range(8):
            task = self.submit("exit 139", gate=self.gate, on_node_loss=on_node_loss)
            if reaches(self._made, task, "running")["node"] == node:
                return task
        raise AssertionError(f"nothing was placed on {node}")

    def broken(self) -> list[str]:
        """What is wrong with them, once the gate is open."""
        self.gate.touch()
        return broken(self._made, self.given)


def _cut(network: Wires, way: str, node: str) -> None:
    if way == "cable":
        network.unplug(node)
    if way in ("to the host", "both"):
        network.cut(node, "host")
    if way in ("to the node", "both"):
        network.cut("host", node)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS if LONG else WAYS[:3])
def test_a_cut_restarts_nothing(two: tuple[Lab, Wires], way: str) -> None:
    made, network = two
    for length in LENGTHS:
        jobs = Jobs(made, next(nonces))
        inner = made.folder / f"{jobs.gate.name}-inner"
        inside = jobs.submit("exit 7", node="n0", gate=inner)
        across = jobs.submit("kill -SEGV $$", node="n0", gate=jobs.gate)
        before = [reaches(made, task, "running") for task in (inside, across)]
        _cut(network, way, "n0")
        try:
            cut = time.monotonic()
            waits = jobs.submit("exit 0", node="n0")
            if length > TIMEOUT:
                until(lambda: node_state(made) == "unreachable", "the node is missed", seconds=15)
                assert task_of(made, across)["state"] == "running"
                assert node_state(made, "n1") == "online"
                reaches(made, jobs.submit("exit 0", node="n1"), "completed")
            time.sleep(max(0.0, cut + length - time.monotonic()))  # that long is the cut
            assert task_of(made, waits)["state"] != "lost"
            inner.touch()
            until(lambda: len(made.alive()) == 1, "one ends inside the cut")
        finally:
            network.heal()
        until(lambda: node_state(made) == "online", "the node is back", seconds=30)
        assert jobs.broken() == []
        for task in before:
            after = task_of(made, task["id"])
            assert (after["attempt"], after["started_at"]) == (1, task["started_at"])


def _moved(made: Lab, task: int, seconds: float) -> dict[str, object]:
    def now() -> dict[str, object] | None:
        found = task_of(made, task)
        return found if found["attempt"] > 1 and found["state"] == "running" else None

    return until(now, f"task {task} runs anew", seconds=seconds)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["both", "cable"] if LONG else ["both"])
def test_the_old_copy_is_dead_before_the_new_one_starts(two: tuple[Lab, Wires], way: str) -> None:
    made, network = two
    jobs = Jobs(made, next(nonces))
    keeps, moves = jobs.lands("n0", "keep"), jobs.lands("n0", "requeue")
    heard(made)
    _cut(network, way, "n0")
    try:
        assert _moved(made, moves, LEASE + GRACE + 20)["node"] == "n1"
        assert task_of(made, keeps)["state"] == "running"
    finally:
        network.heal()
    assert jobs.broken() == [], "and no attempt found another one of its task alive"
    assert task_of(made, keeps)["attempt"] == 1


def test_what_its_fence_has_ended_moves_too_when_the_node_is_back_at_once(two: tuple[Lab, Wires]) -> None:
    made, network = two
    jobs = Jobs(made, next(nonces))
    moves = jobs.lands("n0", "requeue")
    nonce = max(jobs.given)
    heard(made)
    _cut(network, "both", "n0")
    try:
        until(lambda: nonce not in made.alive(), "the fence ends it", seconds=LEASE + 20)
    finally:
        network.heal()
    _moved(made, moves, 30)
    assert jobs.broken() == []
