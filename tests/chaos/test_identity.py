"""Who is who: two runners with one name, a runner that moved, a pid that is somebody else's by now."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from daemons.runner.shim.status import Status, read_status
from hakuriver.errors import HakuRiverError
from hakuriver.paths import host_path
from tests.chaos.history import Job
from tests.chaos.lab import Daemon, Lab, free_port, lab
from tests.chaos.proxy import Proxy
from tests.chaos.work import SYSTEMD, node_state, reaches, settled, submit, task_of
from tests.runner.machines import Machine
from tests.waiting import until

KINDS = [None, SYSTEMD] if os.environ.get("CHAOS") == "long" else [None]
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Lab]:
    """A host and two runners."""
    with lab(tmp_path / "lab", seed=9) as made:
        yield made


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str | None:
    """What the tasks are."""
    found: str | None = request.param
    return found


@pytest.fixture
def pair(kind: str | None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A host, and two runners on one machine that has what the tasks need."""
    with ExitStack() as stack:
        homes = {}
        if kind == SYSTEMD:
            machine = stack.enter_context(Machine(request.getfixturevalue("engine"), tmp_path))
            homes = {"n0": machine, "n1": machine}
        yield stack.enter_context(lab(tmp_path / "lab", seed=9, homes=homes))


def test_a_second_runner_of_the_same_name_is_refused(pair: Lab, kind: str | None) -> None:
    jobs = {1: Job(1, 4.0, 5, "exit 7"), 2: Job(2, 4.0, 5, "exit 139"), 3: Job(3, 0, 5, "exit 0")}
    second = pair.runners[1]
    first_s, second_s = submit(pair, jobs[1], kind, node="n0"), submit(pair, jobs[2], kind, node="n1")
    for task in (first_s, second_s):
        reaches(pair, task, "running")
    second.kill9()
    until(lambda: node_state(pair, "n1") == "unreachable", "the second node is missed")
    _as(second, "n0")
    until(lambda: "another runner" in second.log.read_text(), "the second hears why not")
    assert node_state(pair) == "online"
    reaches(pair, submit(pair, jobs[3], kind, node="n0"), "completed")
    assert task_of(pair, second_s)["state"] == "running", "what the other name has is not touched"
    second.stop()
    _as(second, "n1")
    assert settled(pair, jobs) == [], "and under its own name it is back with all it knows"


def _as(second: Daemon, name: str) -> None:
    second.arguments[second.arguments.index("--name") + 1] = name
    second.start()


def test_a_name_that_another_takes_while_its_owner_is_away(pair: Lab, kind: str | None) -> None:
    first, second = pair.runners
    gone = Job(1, 0, 5, "exit 7", gate=str(pair.folder / "never"))
    old = submit(pair, gone, kind, node="n0")
    reaches(pair, old, "running")
    second.stop()
    first.send(signal.SIGSTOP)
    until(lambda: node_state(pair) == "unreachable", "the first is missed")
    _as(second, "n0")
    told = reaches(pair, old, "lost")
    assert "another journal" in told["reason"]
    jobs = {2: Job(2, 0.5, 5, "exit 139"), 3: Job(3, 0.5, 5, "exit 0")}
    new = submit(pair, jobs[2], kind, node="n0")
    first.send(signal.SIGCONT)
    until(lambda: "another runner" in first.log.read_text(), "the first hears why not")
    assert reaches(pair, new, "failed")["exit_code"] == 139
    assert 1 in pair.alive(), "nobody told the first to end anything"
    second.stop()
    _as(second, "n1")
    until(lambda: 1 not in pair.alive(), "the first is back, and what is lost ends there", seconds=30)
    submit(pair, jobs[3], kind, node="n0")
    found = settled(pair, jobs)
    assert [line for line in found if "job 1 " not in line] == []
    after = task_of(pair, old)
    assert (after["state"], after["attempt"], after["exit_code"]) == ("lost", 1, None)
    assert pair.journal.read_text().count("S 1 ") == 1


def test_a_runner_that_moved(two: Lab) -> None:
    runner = two.runners[0]
    jobs = {nonce: Job(nonce, 2.0, 5, "exit 7") for nonce in range(1, 5)}
    ids = [submit(two, job) for job in jobs.values()]
    for task in ids:
        reaches(two, task, "running", "failed")
    runner.kill9()
    moved = Proxy(99)
    try:
        moved.upstream = free_port()
        runner.arguments[runner.arguments.index("--port") + 1] = str(moved.upstream)
        runner.environ["HAKURIVER_NETWORK_RUNNER_ADDRESS"] = f"127.0.0.1:{moved.port}"
        runner.start()
        address = f"http://127.0.0.1:{moved.port}"
        until(
            lambda: two.ask("GET", host_path("node", name="n0"))["address"] == address,
            "the host knows where it is",
        )
        jobs |= {nonce: Job(nonce, 0, 5, "exit 0") for nonce in range(5, 9)}
        for nonce in range(5, 9):
            submit(two, jobs[nonce])
        assert settled(two, jobs) == []
    finally:
        runner.stop()
        moved.close()


def _kill_keepers(folder: Path) -> None:
    """kill -9 the fork server of a runner and all its shims."""
    for proc in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (proc / "cmdline").read_bytes() if proc.name.isdigit() else b""
            if b"daemons.runner.shim.server" in line and line.endswith(b"\0" + bytes(folder) + b"\0"):
                os.kill(int(proc.name), signal.SIGKILL)


def status_of(made: Lab, task: int) -> Status:
    """What the shim of a task that runs on the first node has written."""
    folder = os.open(made.attempt_folder("n0", task), os.O_RDONLY)
    try:
        status = read_status(folder)
    finally:
        os.close(folder)
    assert status is not None and status["phase"] == "started"
    return status


def _stranger_with(pid: int) -> subprocess.Popen[bytes]:
    """A process of nobody's with a pid that was somebody else's a moment ago."""
    for _ in range(500):
        LAST_PID.write_text(str(pid - 1))
        found = subprocess.Popen(["sleep", "60"], start_new_session=True)
        if found.pid == pid:
            return found
        found.kill()
        found.wait()
    raise AssertionError(f"pid {pid} was never free")


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="chooses a pid: needs root")
def test_a_pid_that_is_a_stranger_s_by_now(two: Lab) -> None:
    body = {"command": ["sleep", "60"], "cores": 0, "targets": ["n0"]}
    task = two.submit(1, body, time.monotonic() + 30)
    reaches(two, task, "running")
    two.runners[0].kill9()
    _kill_keepers(two.layout("n0").runner)
    status = status_of(two, task)
    os.kill(status["pid"], signal.SIGKILL)
    until(lambda: not Path(f"/proc/{status['pid']}").exists(), "its pid is free")
    with _stranger_with(status["pid"]) as stranger:
        try:
            two.runners[0].start()
            with contextlib.suppress(HakuRiverError):
                two.client.request("POST", host_path("kill", id=task), body={"grace": 0})
            ended = reaches(two, task, "lost", "killed", "failed", "completed")
            assert (ended["state"], ended["exit_code"], ended["signal"]) == ("lost", None, None)
            assert stranger.poll() is None, "nobody touched the stranger"
        finally:
            stranger.kill()
