"""Tasks as systemd services, on a machine whose process 1 is systemd."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from daemons.runner.executors.systemd import properties
from daemons.runner.probes.engines import PRIVATE_PIDS_SINCE, Systemd
from hakuriver.errors import CannotFit, UsageError
from hakuriver.nodewire import AttemptSpec
from hakuriver.paths import MAX_STDIN
from tests.runner.machines import OTHER, OTHER_UID, UID, USER, Machine
from tests.runner.peer import eventually
from tests.runner.services import LOOP, ServiceRunner, released, running, submit, tail, unit

MIB = 2**20
EAT = "import sys, time; data = bytearray(int(sys.argv[1])); print('filled', flush=True)"
SPIN = """
import time
began = time.monotonic()
while time.monotonic() - began < 1.5: pass
print(time.process_time() / (time.monotonic() - began))
"""


@pytest.fixture(scope="module")
def shared(machine: Machine) -> Iterator[ServiceRunner]:
    """For the tests that don't break it."""
    with running(machine, "shared ${HOME} %h") as found:
        yield found


# ---- units


def test_a_unit_has_what_the_task_was_given() -> None:
    spec = AttemptSpec(
        task=1, attempt=1, owner="a", command=["x"], executor="systemd", cores=0.5, memory=0, target="n",
        private_network=True,
    )  # fmt: skip
    found = properties(spec, Systemd(252, "root", ""), switches=True)
    assert {"CPUQuota=50.00%", "PrivateNetwork=yes", "ExitType=cgroup", "OOMPolicy=continue"} <= set(found)
    assert not any(each.startswith(("Memory", "User", "Ambient", "PrivateP")) for each in found)
    old = properties(spec, Systemd(249, "sudo", ""), switches=True)
    assert "ExitType=cgroup" not in old
    assert f"User={os.geteuid()}" in old
    assert "AmbientCapabilities=CAP_SETUID CAP_SETGID CAP_KILL" in old
    own = properties(spec.model_copy(update={"cores": 0}), Systemd(257, "user", ""), switches=False)
    assert "PrivateUsers=yes" in own
    assert not any(each.startswith(("CPU", "OOMScore", "User=")) for each in own)


def test_the_exact_end_is_reported_and_the_unit_released(shared: ServiceRunner) -> None:
    cases: list[tuple[list[str], str, int | None, int | None]] = [
        (["true"], "completed", 0, None),
        (["sh", "-c", "exit 139"], "failed", 139, None),
        (["sh", "-c", "kill -SEGV $$"], "failed", None, signal.SIGSEGV),
        (["sh", "-c", "kill -KILL $$"], "failed", None, signal.SIGKILL),
        (["no-such-command-here"], "failed", 127, None),
        (["sh", "-c", "setsid sleep 1000 & exit 3"], "failed", 3, None),
    ]
    tasks = [submit(shared, *command) for command, *_ in cases]
    for task, (_, *wanted) in zip(tasks, cases, strict=True):
        end = shared.host.end(task)
        assert [end["state"], end["exit_code"], end["signal"]] == wanted
        assert end["executor"] == "systemd"
        released(shared, task)
    assert shared.pids(tasks[-1]) == []


def test_words_logs_and_input_are_exact(shared: ServiceRunner) -> None:
    words = ["$HOME", "${PATH}", "%n %%", "a b", "\\x20", '"', "'", "", "ü\n$$"]
    task = submit(shared, "printf", "%s\\0", *words, env={"MINE": "$HOME %h"})
    shared.host.end(task)
    assert shared.whole_log(task).decode().split("\0")[:-1] == words
    data = random.Random(3).randbytes(3 * MIB)
    (shared.on.shared / "data").write_bytes(data)
    task = submit(
        shared, "sh", "-c", f"cat {shared.on.shared}/data; cat {shared.on.shared}/data >&2; cat", stdin=True
    )
    shared.host.state(task, "running")
    assert shared.stdin(task, b"x" * MAX_STDIN, eof=True) == MAX_STDIN
    shared.host.end(task)
    assert shared.whole_log(task) == data + b"x" * MAX_STDIN
    assert shared.whole_log(task, "stderr") == data


def test_pause_resume_signal_and_kill(shared: ServiceRunner) -> None:
    task = submit(shared, "sh", "-c", f"trap 'echo heard; exit 9' USR1; {LOOP}")
    eventually(lambda: shared.logs(task).data)
    shared.intend(task, "pause", 1)
    shared.host.state(task, "paused")
    size = shared.logs(task).size
    other = submit(shared, "sh", "-c", "trap '' TERM; sleep 1000 & echo $!; while :; do sleep 0.1; done")
    eventually(lambda: shared.logs(other).data)
    end = shared.kill(other, grace=0.5)  # meanwhile the paused one had time for ten ticks
    assert (end["state"], end["signal"], end["reason"]) == ("killed", signal.SIGKILL, "killed by bob")
    assert shared.logs(task).size == size
    shared.intend(task, "run", 2)
    eventually(lambda: shared.logs(task).size > size)
    shared.signal(task, signal.SIGUSR1)
    assert (shared.host.end(task)["exit_code"], tail(shared, task)[-1]) == (9, "heard")
    gentle = submit(shared, "sh", "-c", LOOP)
    eventually(lambda: shared.logs(gentle).data)
    end = shared.kill(gentle)
    assert (end["state"], end["signal"]) == ("killed", signal.SIGTERM)
    assert shared.pids(other) + shared.pids(gentle) == []


def test_limits_limit(shared: ServiceRunner) -> None:
    python = [sys.executable, "-S", "-c"]
    spin = submit(shared, *python, SPIN, cores=0.5)
    fits = submit(shared, *python, EAT, str(50 * MIB), memory=64 * MIB)
    reserves = "import mmap; data = mmap.mmap(-1, 8 * 2**30); data[0] = 1; print('reserved')"
    large = submit(shared, *python, reserves, memory=64 * MIB)  # as a JVM does: not touched, not counted
    eats = submit(shared, *python, EAT, str(200 * MIB), memory=64 * MIB)
    child = submit(shared, "sh", "-c", '"$@"; exit 3', "sh", *python, EAT, str(200 * MIB), memory=64 * MIB)
    alike = submit(shared, "sh", "-c", "kill -9 $$", memory=64 * MIB)
    assert shared.on.show(unit(spin), "CPUQuotaPerSecUSec") == "500ms"
    assert float(tail(shared, spin)[0]) < 0.65
    assert (shared.host.end(fits)["state"], shared.host.end(large)["state"]) == ("completed", "completed")
    end = shared.host.end(eats)
    assert (end["state"], end["signal"], end["oom_events"]) == ("killed_oom", 9, 1)
    end = shared.host.end(child)  # a child died of it, the task itself went on: a flag, not its end
    assert (end["state"], end["exit_code"], end["oom_events"] >= 1) == ("failed", 3, True)
    end = shared.host.end(alike)
    assert (end["state"], end["signal"], end["oom_events"]) == ("failed", 9, 0)


def test_a_private_network_has_nothing_but_lo(shared: ServiceRunner) -> None:
    devices = ["sh", "-c", "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"]
    alone, common = submit(shared, *devices, private_network=True), submit(shared, *devices)
    assert tail(shared, alone) == ["lo"]
    assert len(tail(shared, common)) > 1


def test_a_private_process_tree_needs_a_new_systemd(shared: ServiceRunner) -> None:
    version = int(shared.on.run("systemctl", "--version").split()[1])
    if version >= PRIVATE_PIDS_SINCE:
        task = submit(shared, "sh", "-c", "ps -e | wc -l", private_pid=True)
        assert int(tail(shared, task)[0]) < 10
        return
    with pytest.raises(CannotFit, match=f"systemd {version} .* needs 257"):
        submit(shared, "true", private_pid=True)


def test_what_it_cannot_have_is_refused(shared: ServiceRunner) -> None:
    mount = {"source": "/tmp", "target": "/x"}
    with pytest.raises(UsageError, match="mounts"):
        submit(shared, "true", mounts=[mount])
    for facts in ({"private_network": True}, {"private_pid": True}):
        with pytest.raises(UsageError, match="shares the node's network and processes"):
            shared.submit("true", **facts)


def test_a_machine_that_gives_no_networks_says_so(engine: docker.DockerClient) -> None:
    """systemd starts such a unit all the same, with the network of everybody."""
    with Machine(engine, capable=False) as machine, running(machine, "state") as runner:
        task = submit(runner, "sh", "-c", "echo ran", private_network=True)
        end = runner.host.end(task)
        assert (end["state"], end["exit_code"]) == ("failed", None)
        assert end["error"] == "can't have a network of its own: this machine gives none"
        assert runner.whole_log(task) == b""


# ---- users


IDENTITY = "id -u; id -G; pwd; echo $HOME $USER; grep CapEff /proc/self/status; cat /proc/self/oom_score_adj"
THE_OTHER = [str(OTHER_UID), f"{OTHER_UID} 2000", f"/home/{OTHER}", f"/home/{OTHER} {OTHER}"]
POWERLESS = ["CapEff:\t0000000000000000", "0"]


def test_root_runs_tasks_as_another_user(machine: Machine, tmp_path: Path) -> None:
    with running(machine, tmp_path.name, environment__runner_user=OTHER) as runner:
        for executor in ("systemd", "process"):
            task = runner.submit("sh", "-c", IDENTITY, executor=executor)
            assert tail(runner, task)[:5] == THE_OTHER + POWERLESS[:1]
            task = runner.submit("no-such-command-here", executor=executor)
            assert runner.host.end(task)["exit_code"] == 127
        task = submit(runner, "sh", "-c", LOOP)
        eventually(lambda: runner.logs(task).data)
        assert runner.kill(task)["state"] == "killed"


@pytest.mark.parametrize("other", [False, True])
def test_a_user_with_sudo(machine: Machine, tmp_path: Path, other: bool) -> None:
    machine.run("sh", "-c", f"echo '{USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{USER}")
    flags = {"environment__runner_user": OTHER} if other else {}
    try:
        with running(machine, tmp_path.name, USER, **flags) as runner:
            assert "systemd" in runner.facts()["executors"]
            task = submit(runner, "sh", "-c", f"{IDENTITY}; exit 4", memory=64 * MIB)
            lines = tail(runner, task)
            mine = [str(UID), str(UID), f"/home/{USER}", f"/home/{USER} {USER}"]
            assert lines == (THE_OTHER if other else mine) + POWERLESS
            assert runner.host.end(task)["exit_code"] == 4
            task = submit(runner, "sh", "-c", LOOP)
            eventually(lambda: runner.logs(task).data)
            assert runner.kill(task)["state"] == "killed"
            if other:
                assert "only root can run processes as bob" in runner.facts()["unavailable"]["process"]
    finally:
        machine.run("rm", f"/etc/sudoers.d/{USER}")


def test_a_user_without_a_way_is_told_why(machine: Machine, tmp_path: Path) -> None:
    with running(machine, tmp_path.name, USER) as runner:
        assert "systemd" not in runner.facts()["executors"]
        assert "loginctl enable-linger alice" in runner.facts()["unavailable"]["systemd"]


def test_a_user_whose_manager_stays(machine: Machine, tmp_path: Path) -> None:
    machine.linger()
    with running(machine, tmp_path.name, USER) as runner:
        assert "systemd" in runner.facts()["executors"], runner.facts()["unavailable"]
        task = submit(runner, "sh", "-c", f"{IDENTITY}; cat /proc/self/cgroup; exit 4", cores=1)
        lines = tail(runner, task)
        assert lines[:3] == [str(UID), str(UID), f"/home/{USER}"]
        assert any(f"user@{UID}.service" in line and unit(task) in line for line in lines)
        assert runner.host.end(task)["exit_code"] == 4
        eats = submit(
            runner, sys.executable, "-S", "-c", f"{EAT}; time.sleep(60)", str(200 * MIB), memory=64 * MIB
        )
        assert runner.host.end(eats)["state"] == "killed_oom"  # by its group, or because the shim watches
        task = submit(runner, "sh", "-c", LOOP)
        eventually(lambda: runner.logs(task).data)
        runner.crash()
        runner.start()
        assert runner.kill(task)["state"] == "killed"
