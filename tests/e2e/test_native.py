"""``--container NULL``: units of a cluster's own machine with systemd, plain processes of one without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from tests.e2e.cluster import HAKURIVER, Cluster
from tests.e2e.test_targets import runner
from tests.runner.machines import Machine
from tests.waiting import until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="reads what daemons of root wrote: needs root"),
]
NATIVE = ("--container", "NULL", "--cores", "0")
LOOP = "while :; do echo tick; sleep 0.05; done"


@dataclass
class Inside(Cluster):
    """A cluster that lives in a machine; commands are given here."""

    machine: Machine | None = None

    @property
    def on(self) -> Machine:
        assert self.machine is not None
        return self.machine

    def up(self) -> None:
        self._there("up", "--headless")

    def down(self, *, kill: bool = True) -> None:
        self._there("down", *(["--kill"] if kill else []))

    def _there(self, *words: str) -> None:
        pairs = (f"{name}={value}" for name, value in self.env().items())
        self.on.run("env", "-i", *pairs, HAKURIVER, "--state-dir", str(self.folder), *words)

    def online(self) -> bool:
        result = self.cli("--json", "nodes")
        return result.code == 0 and {node["state"] for node in result.json} == {"online"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient) -> Iterator[Inside]:
    shared = tmp_path_factory.mktemp("native")
    with Machine(engine, shared) as machine:
        found = Inside(shared / "state", {"HAKURIVER_NODE_NAME": "units"}, machine=machine)
        found.up()
        with runner(found, "plain", {}):
            yield found
        found.down()
        assert machine.units() == []


def native(cluster: Inside, *command: str, flags: tuple[str, ...] = ()) -> int:
    """A task on the cluster's own node."""
    return cluster.submit(*command, flags=[*NATIVE, "--target", "units", *flags])


def ticking(cluster: Inside, task: int) -> None:
    until(lambda: cluster.log(task), f"task {task} ticks")


def test_a_node_with_systemd_makes_a_unit_of_it(cluster: Inside) -> None:
    script = "cat /proc/self/cgroup; echo error >&2; exit 7"
    (ended,) = cluster.wait(native(cluster, "sh", "-c", script))
    assert (ended["executor"], ended["state"], ended["exit_code"]) == ("systemd", "failed", 7)
    assert f"-{ended['id']}-1.service" in cluster.log(ended["id"]).decode()
    assert cluster.log(ended["id"], "--stderr") == b"error\n"


def test_a_node_without_it_makes_a_process_of_it(cluster: Inside) -> None:
    task = cluster.submit("sh", "-c", "echo $HAKURIVER_NODE; exit 7", flags=[*NATIVE, "--target", "plain"])
    (ended,) = cluster.wait(task)
    assert (ended["executor"], ended["state"], ended["exit_code"]) == ("process", "failed", 7)
    assert cluster.log(task) == b"plain\n"
    alone = ["--private-network", "--target", "plain"]
    refused = cluster.cli("task", "submit", *NATIVE, *alone, "--", "true")
    assert (refused.code, "plain has no executor systemd" in refused.err) == (7, True)


def test_anywhere_it_is_what_the_node_has(cluster: Inside) -> None:
    tasks = [cluster.submit("true", flags=[*NATIVE]) for _ in range(4)]
    kinds = {"units": "systemd", "plain": "process"}
    for ended in cluster.wait(*tasks):
        assert (ended["executor"], ended["state"]) == (kinds[ended["node"]], "completed")


def test_kill_pause_and_time_limit(cluster: Inside) -> None:
    killed = native(cluster, "sh", "-c", f"setsid sleep 1000 & {LOOP}")
    late = native(cluster, "sh", "-c", LOOP, flags=("--time-limit", "1s"))
    ticking(cluster, killed)
    cluster.ok("task", "pause", str(killed))
    until(lambda: cluster.show(killed)["state"] == "paused", "it is paused")
    cluster.ok("task", "resume", str(killed))
    cluster.running(killed)
    assert cluster.cli("task", "kill", str(killed)).code == 0
    (ended, over) = cluster.wait(killed, late)
    assert (ended["executor"], ended["state"], ended["signal"]) == ("systemd", "killed", 15)
    assert (over["executor"], over["state"]) == ("systemd", "timed_out")
    until(lambda: not cluster.on.units(f"hakuriver-*-{killed}-1.service"), "nothing is left of it")


def test_it_does_not_notice_a_killed_runner_and_host(cluster: Inside, tmp_path: Path) -> None:
    gate = cluster.on.shared / "gate"
    task = native(cluster, "sh", "-c", f"echo $$; until [ -e {gate} ]; do sleep 0.05; done; kill -SEGV $$")
    ticking(cluster, task)
    old = {daemon: cluster.pid(daemon) for daemon in ("runner", "host")}
    for pid in old.values():
        cluster.on.kill(pid)
    until(
        lambda: all((cluster.daemons()[each].get("pid") or pid) != pid for each, pid in old.items()),
        "new ones",
    )
    until(cluster.online, "the nodes are online again")
    gate.touch()
    (ended,) = cluster.wait(task)
    assert (ended["state"], ended["signal"], ended["attempt"]) == ("failed", 11, 1)
    assert len(cluster.log(task).split()) == 1
