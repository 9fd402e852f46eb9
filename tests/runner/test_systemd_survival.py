"""Units through kills: of their runner, of what keeps them, and by those who may."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.runner.machines import UID, USER, Machine
from tests.runner.peer import eventually
from tests.runner.services import LOOP, ServiceRunner, read, released, running, submit, tail, unit
from tests.runner.test_survival import journal_says_other_boot, status


@pytest.fixture(scope="module")
def shared(machine: Machine) -> Iterator[ServiceRunner]:
    """For the tests that don't break it."""
    with running(machine, "shared") as found:
        yield found


@pytest.fixture
def runner(machine: Machine, tmp_path: Path) -> Iterator[ServiceRunner]:
    """A runner of one test."""
    with running(machine, tmp_path.name) as found:
        yield found


def test_its_own_service_may_be_stopped(runner: ServiceRunner) -> None:
    gate = runner.on.shared / f"{runner.state.name}.gate"
    task = submit(runner, "sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done; exit 7")
    runner.host.state(task, "running")
    pid = status(runner, task)["pid"]
    assert runner.stop() == 0
    runner.start()
    assert status(runner, task)["pid"] == pid
    gate.touch()
    end = runner.host.end(task)
    assert (end["state"], end["exit_code"]) == ("failed", 7)
    assert [each["state"] for each in runner.host.of(task)] == ["running", "failed"]


def test_a_time_limit_needs_no_runner(runner: ServiceRunner) -> None:
    task = submit(runner, "sh", "-c", LOOP, time_limit=1)
    eventually(lambda: runner.logs(task).data)
    runner.crash()
    eventually(lambda: status(runner, task)["phase"] == "final", what="the limit")
    runner.start()
    assert runner.host.end(task)["state"] == "timed_out"


def test_ends_and_kills_while_the_runner_is_away(runner: ServiceRunner) -> None:
    gate = runner.on.shared / f"{runner.state.name}.gate"
    ends = submit(runner, "sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done; kill -ABRT $$")
    killed = submit(runner, "sh", "-c", f"trap '' TERM; {LOOP}")
    runner.host.state(ends, "running")
    eventually(lambda: runner.logs(killed).data)
    runner.intend(killed, "kill", grace=1)
    runner.crash()
    gate.touch()
    eventually(lambda: status(runner, ends)["phase"] == "final")
    runner.start()
    end = runner.host.end(ends)
    assert (end["state"], end["signal"]) == ("failed", signal.SIGABRT)
    end = runner.host.end(killed)
    assert (end["state"], end["signal"]) == ("killed", signal.SIGKILL)


@pytest.mark.parametrize("killed", ["shim", "main"])
def test_whoever_keeps_it_may_be_killed(shared: ServiceRunner, killed: str) -> None:
    script = f"trap 'exit 9' USR1; (while :; do sleep 1; done) & setsid sleep 1000 & {LOOP}"
    task = submit(shared, "sh", "-c", script)
    eventually(lambda: shared.logs(task).data)
    pid = status(shared, task)["pid"]
    shim = shared.on.parent(pid)
    main = shared.on.parent(shim)
    assert int(shared.on.show(unit(task), "MainPID")) == main
    shared.on.kill(shim if killed == "shim" else main)
    keeper = main if killed == "shim" else shim
    eventually(lambda: shared.on.parent(pid) == keeper, what="the other one taking over")
    shared.intend(task, "pause", 1)
    shared.host.state(task, "paused")
    shared.intend(task, "run", 2)
    size = shared.logs(task).size
    eventually(lambda: shared.logs(task).size > size)
    shared.signal(task, signal.SIGUSR1)
    end = shared.host.end(task)
    assert (end["state"], end["exit_code"]) == ("failed", 9)
    assert shared.pids(task) == []
    released(shared, task)


def test_when_both_were_killed_nothing_stays_behind(shared: ServiceRunner) -> None:
    task = submit(shared, "sh", "-c", f"setsid sleep 1000 & {LOOP}")
    eventually(lambda: shared.logs(task).data)
    shim = shared.on.parent(status(shared, task)["pid"])
    shared.on.run("kill", "-9", str(shared.on.parent(shim)), str(shim))
    end = shared.host.end(task)
    assert end["state"] == "lost"
    assert (
        "main process of its unit were killed (unit result: signal): nobody saw how it ended" in end["reason"]
    )
    eventually(lambda: not shared.pids(task))
    released(shared, task)


def test_an_operator_may_stop_the_unit(shared: ServiceRunner) -> None:
    task = submit(shared, "sh", "-c", "trap 'echo bye; exit 5' TERM; while :; do sleep 0.05; done")
    shared.host.state(task, "running")
    shared.on.run("systemctl", "stop", unit(task))
    assert (shared.host.end(task)["exit_code"], tail(shared, task)) == (5, ["bye"])


KILL_ONE = """
main=$(systemctl show --value --property=MainPID "$1"); test "$main" != 0 || exit 0
shim=$(cat "/proc/$main/task/$main/children"); test "$2" = main || main=${shim%% *}
test -z "$main" || kill -9 "$main"
"""


def test_a_storm_of_kills(runner: ServiceRunner) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(10**6)
    dice, ran = random.Random(seed), runner.on.shared / f"{runner.state.name}.ran"
    tasks: dict[int, int] = {}
    spared: list[int] = []  # one of its two keepers may be killed, but not the other one, too
    for code in range(1, 11):
        script = f"echo {code} >>{ran}; sleep {dice.uniform(0.1, 4)}; exit {code}"
        task = submit(runner, "sh", "-c", script)
        tasks[task] = code
        spared.append(task)
        if dice.random() < 0.25:
            runner.crash()
            runner.start()
        if dice.random() < 0.7:
            victim = spared.pop(dice.randrange(len(spared)))
            runner.on.try_run("sh", "-c", KILL_ONE, "sh", unit(victim), dice.choice(["main", "shim"]))
    wanted = []
    for task, code in tasks.items():
        end = runner.host.end(task)
        if end["state"] != "pending":  # killed before it ran: that is another attempt's
            assert (end["state"], end["exit_code"]) == ("failed", code), f"SEED={seed}: {end}"
            wanted.append(code)
    assert sorted(map(int, ran.read_text().split())) == wanted, f"SEED={seed}"


def test_units_of_unknown_attempts_are_ended(runner: ServiceRunner, shared: ServiceRunner) -> None:
    task = submit(runner, "sh", "-c", LOOP, task=9001)
    other = submit(shared, "sh", "-c", LOOP, task=9002)
    for each, number in ((runner, task), (shared, other)):
        eventually(partial(read, each, number))
    runner.crash()
    for file in runner.layout.runner.glob("journal.db*"):
        file.unlink()
    runner.start()
    eventually(lambda: unit(task) not in runner.on.units(), what="its end")
    assert runner.pids(task) == []
    assert unit(other) in runner.on.units(), shared.log  # another runner's
    assert shared.kill(other)["state"] == "killed"


def test_a_fenced_task_ends_with_the_lease(machine: Machine, tmp_path: Path) -> None:
    with running(machine, tmp_path.name) as runner:
        runner.host.lease = 2
        runner.crash()
        runner.start()
        task = submit(runner, "sh", "-c", f"trap '' TERM; setsid sleep 1000 & {LOOP}", fenced=True)
        runner.host.wait(lambda: [task, 1] in runner.host.heartbeats[-1]["fences"], what="its fence")
        runner.host.down = True
        eventually(lambda: status(runner, task)["phase"] == "final", what="the fence")
        assert runner.pids(task) == []
        runner.host.down = False
        assert runner.host.end(task)["reason"].startswith("fenced: no lease for ")


def test_what_an_earlier_boot_left_is_lost(runner: ServiceRunner) -> None:
    task = submit(runner, "sh", "-c", LOOP)
    eventually(lambda: runner.logs(task).data)
    runner.crash()
    runner.on.run("systemctl", "kill", "--signal=SIGKILL", unit(task))
    journal_says_other_boot(runner)
    runner.start()
    end = runner.host.end(task)
    assert (end["state"], end["reason"].split(":")[0]) == ("lost", "node_rebooted")


def test_a_manager_that_is_killed_takes_its_tasks_along(machine: Machine, tmp_path: Path) -> None:
    machine.linger()
    manager = f"user@{UID}.service"
    with running(machine, tmp_path.name, USER) as runner:
        task = submit(runner, "sh", "-c", LOOP)
        eventually(lambda: runner.logs(task).data)
        machine.kill(int(machine.show(manager, "MainPID")))
        eventually(lambda: not runner.pids(task), what="its end")
        eventually(lambda: "unit_unknown" in runner.log, what="a look in vain")
        machine.run("systemctl", "start", manager)
        end = runner.host.end(task)
        assert (end["state"], end["exit_code"], end["signal"]) == ("lost", None, None)
