"""The faults of the other tests, and those of a systemd, with tasks that are its units. Two nodes on one
machine of their own: the second keeps its attempts on a disk of 16 MB."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import docker
import pytest

from hakuriver import statedir
from hakuriver.errors import HakuRiverError
from hakuriver.paths import host_path
from tests.chaos.history import Job
from tests.chaos.lab import Lab, lab
from tests.chaos.proxy import Mood
from tests.chaos.test_disk import end_on_a_full_disk
from tests.chaos.test_ends import CASES, ends
from tests.chaos.test_identity import LAST_PID, status_of
from tests.chaos.test_network import cut_for_long, freeze_for_long
from tests.chaos.test_streams import kill_runner, write_through
from tests.chaos.work import SYSTEMD, broken, heard, reaches, runs, submit, task_of
from tests.runner.machines import Machine
from tests.waiting import until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="signals what lives in a container: needs root"),
]
LONG = os.environ.get("CHAOS") == "long"
SILENCE = 1.8  # seconds after which a node is missed here
STRANGER = """
while :; do
  echo $(($0 - 1)) >/proc/sys/kernel/ns_last_pid; sleep 60 &
  test $! != $0 || { wait $0; exit; }
  kill $!
done
"""
nonces = itertools.count(7000)


@pytest.fixture(scope="module")
def there(
    tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient
) -> Iterator[tuple[Lab, Machine]]:
    shared = tmp_path_factory.mktemp("systemd")
    with Machine(engine, shared) as machine:
        folder = shared / "lab"
        small = statedir.layout(folder / "n1").attempts
        small.mkdir(parents=True)
        machine.run("mount", "-t", "tmpfs", "-o", "size=16M,mode=0700", "tmpfs", str(small))
        with lab(folder, seed=14, homes={"n0": machine, "n1": machine}) as made:
            yield made, machine


@pytest.mark.parametrize("down", ["runner", "host", "both"])
def test_ends_while_daemons_are_down(there: tuple[Lab, Machine], down: str) -> None:
    assert ends(there[0], down, SYSTEMD) == {case.end: case.process for case in CASES}


def test_kills_of_the_runner_while_it_writes(there: tuple[Lab, Machine]) -> None:
    write_through(there[0], SYSTEMD, next(nonces), partial(kill_runner, there[0]))


@pytest.mark.parametrize("way", ["everything", "reports", "orders"] if LONG else ["everything"])
def test_a_cut(there: tuple[Lab, Machine], way: str) -> None:
    silent, fine = Mood(lose_request=1, silent=True), Mood()
    moods = {"everything": (silent, silent), "reports": (silent, fine), "orders": (fine, silent)}[way]
    cut_for_long(there[0], *moods, missed=way != "orders", silence=SILENCE, kind=SYSTEMD)


@pytest.mark.parametrize("who", ["runner", "host", "both"] if LONG else ["runner"])
def test_frozen_for_longer_than_the_timeout(there: tuple[Lab, Machine], who: str) -> None:
    freeze_for_long(there[0], who, silence=SILENCE, kind=SYSTEMD)


def test_ends_on_a_full_disk(there: tuple[Lab, Machine]) -> None:
    made, machine = there
    hog = Path(f"/proc/{machine.init}/root{made.layout('n1').attempts}/hog")
    end_on_a_full_disk(made, hog, node="n1", kind=SYSTEMD, first=8000)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("turn", range(6 if LONG else 1))
def test_a_systemd_that_freezes_around_a_start(there: tuple[Lab, Machine], turn: int) -> None:
    made, machine = there
    gate = made.folder / f"gate-{turn}"
    kinds = (("exit 7", str(gate)), ("kill -SEGV $$", ""), ("exit 139", ""))
    jobs = {(nonce := next(nonces)): Job(nonce, 0, 5, end, gate=where) for end, where in kinds}
    across, amid, late = jobs.values()
    reaches(made, submit(made, across, SYSTEMD, node="n0"), "running")
    tasks = [submit(made, amid, SYSTEMD, node="n0")]
    time.sleep(random.uniform(0, 0.3))  # any moment of its start
    os.kill(machine.init, signal.SIGSTOP)
    frozen = time.monotonic()
    try:
        tasks.append(submit(made, late, SYSTEMD, node="n0"))
        kill_runner(made)
        heard(made)
        if turn % 2:  # for longer than anybody waits for its answer
            time.sleep(max(0.0, frozen + 25 - time.monotonic()))
        states = {task_of(made, task)["state"] for task in tasks}
    finally:
        os.kill(machine.init, signal.SIGCONT)
    assert states <= {"pending", "assigned", "preparing", "running", "failed"}
    machine.run("systemctl", "daemon-reexec")  # as at its upgrade
    gate.touch()
    assert broken(made, jobs) == []


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="chooses a pid: needs root")
def test_a_pid_that_is_a_stranger_s_by_now(there: tuple[Lab, Machine]) -> None:
    made, machine = there
    body = {"command": ["sleep", "60"], "cores": 0, "targets": ["n0"]} | runs(SYSTEMD)
    task = made.submit(next(nonces), body, time.monotonic() + 30)
    reaches(made, task, "running")
    made.runners[0].kill9()
    pid = status_of(made, task)["pid"]
    shim = machine.parent(pid)
    machine.run("kill", "-9", str(machine.parent(shim)), str(shim))
    machine.kill(pid)
    until(lambda: machine.try_run("kill", "-0", str(pid))[0], "its pid is free")
    with subprocess.Popen(
        ["nsenter", f"--target={machine.init}", "--pid", "sh", "-c", STRANGER, str(pid)]
    ) as stranger:
        try:
            until(
                lambda: "sleep" in machine.try_run("ps", "-o", "comm=", "-p", str(pid))[1],
                "a stranger has it",
            )
            made.runners[0].start()
            with contextlib.suppress(HakuRiverError):
                made.client.request("POST", host_path("kill", id=task), body={"grace": 0})
            ended = reaches(made, task, "lost", "killed", "failed", "completed")
            assert (ended["state"], ended["exit_code"], ended["signal"]) == ("lost", None, None)
            assert stranger.poll() is None, "nobody touched the stranger"
        finally:
            machine.kill(pid)
