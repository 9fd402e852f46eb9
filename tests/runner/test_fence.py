"""Fenced attempts end by themselves when their node hears nothing of the host."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.runner.shim.lease import Fence, decode_lease, encode_lease
from daemons.runner.shim.proc import boot_id, boottime
from tests.runner.peer import Host, Runner, eventually
from tests.runner.test_survival import forkserver, parent, status

LEASE = 2.0
LOOP = "while :; do echo tick; sleep 0.05; done"


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Runner]:
    """A runner whose host grants short leases."""
    host = Host()
    host.lease = LEASE
    runner = Runner(tmp_path / "state", host).start()
    try:
        yield runner
    finally:
        runner.close()
        host.close()


def listed(host: Host, task: int) -> bool:
    """Whether the last heartbeat names the fence of a task."""
    return bool(host.heartbeats) and [task, 1] in host.heartbeats[-1]["fences"]


def fenced(runner: Runner, script: str = LOOP) -> int:
    """A fenced task that runs and whose fence was heard of."""
    task = runner.submit("sh", "-c", script, fenced=True)
    runner.host.state(task, "running")
    runner.host.wait(lambda: listed(runner.host, task), what="the fence in a heartbeat")
    return task


@given(st.floats(0, 1e9), st.integers(0, 127), st.integers(1, 255))
def test_a_damaged_lease_is_none_or_unchanged(deadline: float, position: int, flip: int) -> None:
    block = bytearray(encode_lease(deadline, "boot"))
    assert decode_lease(bytes(block), "boot") == pytest.approx(deadline, abs=0.001)
    assert decode_lease(bytes(block), "other") is None
    block[position] ^= flip
    assert decode_lease(bytes(block), "boot") in (None, pytest.approx(deadline, abs=0.001))


def test_a_lease_that_cannot_be_read_keeps_the_last_deadline(tmp_path: Path) -> None:
    (tmp_path / "attempts" / "1.1").mkdir(parents=True)
    folder = os.open(tmp_path / "attempts" / "1.1", os.O_RDONLY)
    try:
        fence, lease = Fence(folder), tmp_path / "lease"
        assert fence.over_for() > 0
        lease.write_bytes(encode_lease(boottime() + 100, boot_id()))
        assert fence.over_for() == 0
        for damaged in (b"", b"x" * 128, encode_lease(boottime() + 900, "another boot")):
            lease.write_bytes(damaged)
            assert fence.over_for() == 0
        assert fence.deadline < boottime() + 101
        lease.write_bytes(encode_lease(boottime() - 5, boot_id()))
        assert 4.9 < fence.over_for() < 6
    finally:
        os.close(folder)


def test_a_fenced_task_lives_as_long_as_the_host_answers_and_not_longer(crew: Runner) -> None:
    task = fenced(crew, f"trap '' TERM; setsid sh -c 'sleep 1000' & {LOOP}")
    other = crew.submit("sh", "-c", LOOP)
    time.sleep(2 * LEASE)  # the lease is renewed meanwhile, or this would be its end
    assert status(crew, task)["phase"] == "started"
    crew.host.down = True
    since = time.monotonic()
    eventually(lambda: status(crew, task)["phase"] == "final", what="the fence")
    assert LEASE - 0.5 < time.monotonic() - since < LEASE + 10
    assert crew.pids(task) == []
    crew.host.down = False
    end = crew.host.end(task)
    assert (end["state"], end["exit_code"], end["signal"]) == ("lost", None, None)
    assert end["reason"].startswith("fenced: no lease for ")
    assert crew.kill(other)["state"] == "killed"  # whose policy is to stay


@pytest.mark.parametrize("killed", ["runner", "shim", "fork server"])
def test_whoever_dies_the_fence_holds(crew: Runner, killed: str) -> None:
    task = fenced(crew)
    shim = parent(status(crew, task)["pid"])
    if killed == "runner":
        crew.crash()
    else:
        os.kill(shim if killed == "shim" else forkserver(crew), signal.SIGKILL)
        if killed == "shim":
            eventually(lambda: parent(status(crew, task)["pid"]) != shim, what="another keeper")
        count = len(crew.host.heartbeats)
        crew.host.wait(lambda: len(crew.host.heartbeats) > count + 1 and listed(crew.host, task))
        crew.host.down = True
    eventually(lambda: status(crew, task)["phase"] == "final", what="the fence")
    assert crew.pids(task) == []
    crew.host.down = False
    if killed == "runner":
        crew.start()
    assert crew.host.end(task)["reason"].startswith("fenced: no lease")


def test_a_frozen_fence_is_not_told_to_live(crew: Runner) -> None:
    task = fenced(crew)
    shim = parent(status(crew, task)["pid"])
    os.kill(shim, signal.SIGSTOP)
    crew.host.wait(lambda: not listed(crew.host, task), what="its absence from heartbeats")
    assert [task, 1] in crew.host.heartbeats[-1]["attempts"]
    os.kill(shim, signal.SIGCONT)
    crew.host.wait(lambda: listed(crew.host, task), what="its return")


def test_an_end_before_the_fence_is_told_as_it_was(crew: Runner) -> None:
    task = fenced(crew, "sleep 0.5; exit 3")
    crew.host.down = True
    eventually(lambda: status(crew, task)["phase"] == "final")
    time.sleep(LEASE)
    crew.host.down = False
    end = crew.host.end(task)
    assert (end["state"], end["exit_code"]) == ("failed", 3)


def test_nothing_fenced_starts_without_a_lease(crew: Runner, tmp_path: Path) -> None:
    crew.host.down = True
    time.sleep(LEASE + 0.3)  # the lease of the last heartbeat is over
    spec = crew.spec("touch", str(tmp_path / "ran"), fenced=True)
    crew.put(spec)
    free = crew.submit("true")
    eventually(lambda: crew.logs(free, wait=5).ended)
    assert not (tmp_path / "ran").exists()
    crew.host.down = False
    assert "heartbeat" in crew.host.state(spec.task, "preparing")["reason"]
    assert crew.host.end(spec.task)["state"] == "completed"
