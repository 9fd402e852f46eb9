"""kill -9 of the runner, the host, or both during a task: same process, right exit code, byte-exact log."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster
from tests.waiting import until

_SCRIPT = """
echo "pid $$"
i=0
while [ $i -lt 40 ]; do
  i=$((i + 1)); echo "line $i"; echo "error $i" >&2
  sleep 0.05
done
while [ ! -e "$1" ]; do sleep 0.05; done
exit 7
"""
_OUT = "".join(f"line {number}\n" for number in range(1, 41))
_ERR = "".join(f"error {number}\n" for number in range(1, 41)).encode()


@pytest.mark.parametrize("victims", [("runner",), ("host",), ("runner", "host")], ids="+".join)
def test_a_process_task_does_not_notice(cluster: Cluster, tmp_path: Path, victims: tuple[str, ...]) -> None:
    gate = tmp_path / "gate"
    task = cluster.submit("sh", "-c", _SCRIPT, "sh", str(gate), flags=["--cores", "0"])
    cluster.running(task)
    pid = int(until(lambda: cluster.log(task), "the first line").split()[1])
    cluster.kill9(*victims)
    os.kill(pid, 0)
    gate.touch()
    (ended,) = cluster.wait(task)
    assert (ended["state"], ended["exit_code"], ended["attempt"]) == ("failed", 7, 1)
    assert cluster.log(task) == f"pid {pid}\n{_OUT}".encode()
    assert cluster.log(task, "--stderr") == _ERR


@pytest.mark.docker
@pytest.mark.parametrize("victims", [("runner",), ("host",), ("runner", "host")], ids="+".join)
def test_a_docker_task_does_not_notice(cluster: Cluster, busybox: str, victims: tuple[str, ...]) -> None:
    gate = f"gate-{'-'.join(victims)}"
    flags = ["--cores", "0", "--image", busybox]
    task = cluster.submit("sh", "-c", _SCRIPT, "sh", f"/shared/{gate}", flags=flags)
    cluster.running(task)
    until(lambda: cluster.log(task), "the first line")
    cluster.kill9(*victims)
    (cluster.layout.shared / gate).touch()
    (ended,) = cluster.wait(task)
    assert (ended["state"], ended["exit_code"], ended["attempt"]) == ("failed", 7, 1)
    assert cluster.log(task).partition(b"\n")[2] == _OUT.encode()
    assert cluster.log(task, "--stderr") == _ERR


def test_a_task_that_ends_while_everything_is_down(own_cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    codes = {"exit 0": (0, None), "exit 7": (7, None), "exit 139": (139, None), "kill -SEGV $$": (None, 11)}
    tasks = {
        own_cluster.submit(
            "sh", "-c", f"while [ ! -e '{gate}' ]; do sleep 0.05; done; {end}", flags=["--cores", "0"]
        ): how
        for end, how in codes.items()
    }
    for task in tasks:
        own_cluster.running(task)
    said = own_cluster.cli("down")
    assert said.code == 0
    assert "4 tasks still run" in said.err + said.out.decode()
    gate.touch()
    own_cluster.up()
    for ended in own_cluster.wait(*tasks):
        assert (ended["exit_code"], ended["signal"]) == tasks[ended["id"]]


def test_a_supervisor_that_is_killed_is_found_again(own_cluster: Cluster) -> None:
    task = own_cluster.submit("sleep", "30")
    own_cluster.running(task)
    os.kill(own_cluster.pid("supervisor"), signal.SIGKILL)
    own_cluster.up()
    assert own_cluster.show(task)["state"] == "running"
    own_cluster.kill9("runner")
    assert own_cluster.show(task)["state"] == "running"


def test_commands_wait_for_a_host_that_is_started_again(own_cluster: Cluster) -> None:
    task = own_cluster.submit("true")
    own_cluster.wait(task)
    for _ in range(3):
        os.kill(own_cluster.pid("host"), signal.SIGKILL)
        assert own_cluster.cli("task", "show", str(task)).code == 0
    own_cluster.down()
    assert own_cluster.cli("task", "list").code == 5, "nobody starts it again: no waiting"
    own_cluster.up()


def test_two_clusters_live_side_by_side(cluster: Cluster, own_cluster: Cluster) -> None:
    one, two = cluster.submit("sleep", "30"), own_cluster.submit("sleep", "30")
    assert cluster.daemons()["host"]["url"] != own_cluster.daemons()["host"]["url"]
    own_cluster.ok("task", "kill", str(two))
    own_cluster.wait(two)
    assert cluster.running(one)
    cluster.ok("task", "kill", str(one))
