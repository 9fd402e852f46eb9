"""Time limits: of running without pauses, whoever is killed meanwhile."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.runner.model import End, Wish, judge
from daemons.runner.shim.limit import TimeLimit, fresh
from hakuriver.lifecycle import Intent, State
from tests import images
from tests.runner.peer import Runner, eventually
from tests.runner.test_docker import crew, own_crew  # noqa: F401  fixtures
from tests.runner.test_survival import parent, status

FOR_EVER = "echo ready; while :; do sleep 0.02; done"
ORDER: dict[str, Any] = {"seconds": 10.0, "notice": 3.0, "signal": 10, "grace": 5.0}


def limited(runner: Runner, script: str, seconds: float, **facts: Any) -> int:
    """A task with a time limit whose script has begun to run."""
    task = runner.submit("sh", "-c", script, time_limit=seconds, **facts)
    eventually(lambda: runner.logs(task).data, what="its first words")
    return task


# ---- the clock itself


@given(st.lists(st.tuples(st.sampled_from(["pause", "resume"]), st.floats(0.01, 5)), max_size=30))
def test_only_running_counts_and_every_moment_of_it(steps: list[tuple[str, float]]) -> None:
    limit = TimeLimit(ORDER, fresh(100.0))
    now, ran, running = 100.0, 0.0, True
    for step, seconds in steps:
        now += seconds
        ran += seconds if running else 0.0
        assert limit.ran(now) == pytest.approx(ran)
        running = step == "resume"
        (limit.resume if running else limit.pause)(now)
        limit = TimeLimit(ORDER, dict(limit.kept))  # whoever watches next knows no more than what is kept
    assert limit.ran(now) == pytest.approx(ran)
    assert limit.end_due(now + 10.0 - ran + 0.01) == (running or ran >= 10)
    assert 0 < limit.wait(now) <= 10


def test_notice_comes_once_before_the_end() -> None:
    limit = TimeLimit(ORDER, fresh(0.0))
    assert not limit.notice_due(6.9)
    assert limit.notice_due(7.0)
    assert limit.wait(5.0) == 2
    limit.kept["noticed"] = True
    assert not limit.notice_due(8.0)
    assert limit.wait(8.0) == 2
    assert not limit.end_due(9.9)
    assert limit.end_due(10.0)
    assert not TimeLimit(ORDER | {"notice": None}, fresh(0.0)).notice_due(9.9)


def test_who_came_first_decides_between_limit_and_kill() -> None:
    def kill(at: float) -> Wish:
        return Wish(version=1, intent=Intent.KILL, by="bob", grace=1, at=at, at_boot=at, boot_id="b")

    end = End(exit_code=0, ended_boot=100, boot_id="b", over_limit=90)
    assert judge(end, None, 0, 7200).state is State.TIMED_OUT
    assert judge(end, None, 0, 7200).reason == "over its time limit of 2h"
    assert judge(end, None, 0, 5400).reason == "over its time limit of 1h30m"
    assert judge(end, None, 0, 0.5).reason == "over its time limit of 0.5s"
    assert judge(end, kill(89), 0, 60).state is State.KILLED
    assert judge(end, kill(91), 0, 60).state is State.TIMED_OUT
    assert judge(end, kill(101), 0, 60).state is State.TIMED_OUT
    assert judge(End(exit_code=0, ended_boot=100, boot_id="b"), None, 0, 60).state is State.COMPLETED


# ---- tasks that a shim keeps


def test_a_task_ends_at_its_limit_with_its_own_exit_code(shared_runner: Runner) -> None:
    first = limited(shared_runner, FOR_EVER, 0.5)
    handled = limited(shared_runner, f"trap 'sleep 0.1; exit 5' TERM; {FOR_EVER}", 1.5)
    well = limited(shared_runner, f"trap 'exit 0' TERM; {FOR_EVER}", 1.5)
    end = shared_runner.host.end(first)
    assert (end["state"], end["signal"], end["exit_code"]) == ("timed_out", signal.SIGTERM, None)
    assert end["reason"] == "over its time limit of 0.5s"
    # it ends by itself in the grace that it has
    end = shared_runner.host.end(handled)
    assert (end["state"], end["exit_code"]) == ("timed_out", 5)
    end = shared_runner.host.end(well)
    assert (end["state"], end["exit_code"]) == ("timed_out", 0)
    # and before it is before it
    end = shared_runner.host.end(limited(shared_runner, "echo ready; sleep 0.3; exit 3", 30))
    assert (end["state"], end["exit_code"]) == ("failed", 3)


def test_a_deaf_task_is_killed_after_the_nodes_grace(tmp_path: Path, runner: Runner) -> None:
    runner.stop()
    runner.flags = {"timing.kill_grace": 0.5}
    runner.start()
    task = limited(runner, f"trap 'echo heard' TERM; setsid sleep 1000 & {FOR_EVER}", 1.5)
    end = runner.host.end(task)
    assert (end["state"], end["signal"]) == ("timed_out", signal.SIGKILL)
    assert runner.whole_log(task) == b"ready\nheard\n"
    assert runner.pids(task) == []


def test_a_signal_warns_before_the_end(shared_runner: Runner) -> None:
    script = "trap 'echo soon' USR2; trap 'echo now; exit 9' TERM; " + FOR_EVER
    task = limited(shared_runner, script, 3.0, notice={"signal": 12, "seconds": 1.5})
    end = shared_runner.host.end(task)
    assert (end["state"], end["exit_code"]) == ("timed_out", 9)
    lines = shared_runner.whole_log(task).decode().split()
    assert lines == ["ready", "soon", "now"]


def test_pauses_do_not_count(shared_runner: Runner) -> None:
    host = shared_runner.host
    task = limited(shared_runner, FOR_EVER, 1.0)
    shared_runner.intend(task, "pause", 1)
    host.state(task, "paused")
    time.sleep(1.5)  # far beyond the limit
    assert status(shared_runner, task)["phase"] == "started"
    before = time.monotonic()
    shared_runner.intend(task, "run", 2)
    assert host.end(task)["state"] == "timed_out"
    ran = status(shared_runner, task)["limit"]["ran"]
    assert ran < 1.0 < ran + time.monotonic() - before


def test_a_kill_that_came_first_is_a_kill(shared_runner: Runner) -> None:
    task = limited(shared_runner, f"trap 'sleep 1.5; exit 4' TERM; {FOR_EVER}", 2.0)
    end = shared_runner.kill(task, grace=10)
    assert (end["state"], end["exit_code"]) == ("killed", 4)


def test_it_holds_while_the_runner_is_dead_and_is_told_afterwards(runner: Runner) -> None:
    task = limited(runner, f"trap 'exit 6' TERM; {FOR_EVER}", 1.5)
    runner.crash()
    eventually(lambda: status(runner, task)["phase"] == "final", what="the end without a runner")
    found = status(runner, task)
    assert 1.5 <= found["ended_boot"] - found["started_boot"] < 15
    runner.start()
    end = runner.host.end(task)
    assert (end["state"], end["exit_code"]) == ("timed_out", 6)


@pytest.mark.parametrize("when", ["before", "after"])
def test_another_keeper_goes_on_with_the_same_clock(runner: Runner, when: str) -> None:
    task = limited(runner, f"trap 'echo heard' TERM; {FOR_EVER}", 1.0)
    shim = parent(status(runner, task)["pid"])
    if when == "after":
        eventually(lambda: status(runner, task)["limit"]["over"], what="its limit")
    os.kill(shim, signal.SIGKILL)
    eventually(lambda: parent(status(runner, task)["pid"]) != shim, what="another keeper")
    eventually(lambda: b"heard" in runner.logs(task).data, what="its TERM")
    over = status(runner, task)["limit"]["over"]
    assert 1.0 <= over - status(runner, task)["started_boot"] < 15
    runner.kill(task, grace=0)
    assert runner.host.end(task)["state"] == "timed_out", "the kill came later"


# ---- containers, whose time the runner keeps


def boxed(runner: Runner, script: str, seconds: float, **facts: Any) -> int:
    return limited(
        runner, script, seconds, executor="docker", image=images.BUSYBOX, memory=64 * 2**20, **facts
    )


@pytest.mark.docker
def test_a_container_ends_at_its_limit(crew: Runner, engine: docker.DockerClient) -> None:  # noqa: F811
    script = "trap 'echo soon' USR1; trap 'echo now; exit 9' TERM; " + FOR_EVER
    task = boxed(crew, script, 2.0, notice={"signal": 10, "seconds": 1})
    end = crew.host.end(task)
    assert (end["state"], end["exit_code"]) == ("timed_out", 9)
    assert end["reason"] == "over its time limit of 2s"
    assert crew.whole_log(task).split() == [b"ready", b"soon", b"now"]
    assert crew.host.end(boxed(crew, "echo ready; exit 3", 30))["state"] == "failed"


@pytest.mark.docker
def test_a_containers_clock_survives_its_runner(own_crew: Runner) -> None:  # noqa: F811
    runner, host = own_crew, own_crew.host
    away = boxed(runner, f"trap 'exit 7' TERM; {FOR_EVER}", 1.5)
    paused = boxed(runner, f"trap 'exit 8' TERM; {FOR_EVER}", 5.0)
    early = boxed(runner, "echo ready; sleep 1.2; exit 3", 5.0)
    host.state(paused, "running")
    runner.intend(paused, "pause", 1)
    host.state(paused, "paused")
    runner.crash()
    time.sleep(5.5)  # beyond every limit
    runner.start()
    end = host.end(away)
    assert (end["state"], end["exit_code"]) == ("timed_out", 7), "at once when it is back"
    assert host.end(early)["state"] == "failed", "it had ended before"
    assert host.of(paused)[-1]["state"] == "paused", "a pause doesn't count"
    runner.intend(paused, "run", 2)
    end = host.end(paused)
    assert (end["state"], end["exit_code"]) == ("timed_out", 8)
