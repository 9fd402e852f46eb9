"""Targets: each wrong one is named and refused with its own code, the good ones beside it are submitted."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import HAKURIVER, Cluster, Result, end_all
from tests.fakes import driver
from tests.fakes.driver import FakeDriver
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shows a runner other NUMA nodes: needs root")
CPUS = sorted(os.sched_getaffinity(0))[:2]
SYSFS = "/sys/devices/system/node"
WRONG = {
    "nowhere": (3, "there is no node nowhere"),
    "nowhere:0::1": (3, "there is no node nowhere"),
    "big:3": (7, "big has no NUMA node 3 (it has 0, 1)"),
    "plain:9": (7, "plain has no NUMA node 9"),
    "big::8": (7, "big has no GPU 8 (it has 0–7)"),
    "big::7,8,9": (7, "big has no GPU 8, 9 (it has 0–7)"),
    "plain::0": (7, "plain has no GPU 0 (it has none)"),
    "big:0::2,6": (7, "GPU 6 of big is on NUMA node 1, not 0"),
    "big:1::0": (7, "GPU 0 of big is on NUMA node 0, not 1"),
    "big::3,3": (2, "names GPU 3 twice"),
    "big::1,02,2": (2, "names GPU 2 twice"),
    "big:x": (2, "'x' is not a NUMA node number"),
    "big::": (2, "'' is not a GPU number"),
    "big::-1": (2, "'-1' is not a GPU number"),
    "big:0:1": (2, "can't be understood"),
    "": (2, "'' is not a node name"),
    "-rf /": (2, "'-rf /' is not a node name"),
}
GOOD = {"big": (None, []), "big:1": (1, []), "big::1,6": (None, [1, 6]), "big:1::5,4": (1, [4, 5])}


@contextmanager
def runner(cluster: Cluster, name: str, environ: dict[str, str], *prefix: str) -> Iterator[Path]:
    """One more node of a cluster, until the block ends; its state folder."""
    state = cluster.folder.parent / name
    config = state.with_suffix(".toml")
    config.write_text(f'[paths]\nstate_dir = "{state}"\ncredentials_dir = "{cluster.layout.credentials}"\n')
    words = [HAKURIVER, "runner", "--config", str(config), "--name", name, "--port", "0"]
    words += ["--host", cluster.ok("status")["host"]["url"]]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [*prefix, *words], env=cluster.env() | environ, stdout=quiet, stderr=quiet
    ) as process:
        try:
            until(lambda: state_of(cluster, name) == "online", f"{name} has joined", seconds=30)
            yield state
        finally:
            process.kill()
            end_all(state)


def state_of(cluster: Cluster, name: str) -> str | None:
    found = [node["state"] for node in cluster.ok("nodes") if node["name"] == name]
    return found[0] if found else None


def numa_tree(folder: Path) -> Path:
    """What a kernel shows of a machine with two NUMA nodes. The second has no memory, so that tasks can be
    bound to it on a machine with one."""
    for number, (cpu, memory) in enumerate(zip(CPUS, (2 * 2**20, 0), strict=True)):
        node = folder / f"node{number}"
        node.mkdir(parents=True)
        (node / "cpulist").write_text(f"{cpu}\n")
        (node / "meminfo").write_text(f"Node {number} MemTotal:       {memory} kB\n")
        (node / "distance").write_text("10 20\n" if number == 0 else "20 10\n")
    (folder / "online").write_text("0-1\n")
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes: ``plain``; ``big`` with two NUMA nodes and eight GPUs; ``away``, which is out of reach."""
    folder = tmp_path_factory.mktemp("targets")
    fake = FakeDriver(driver.build(folder / "library"), folder / "gpus.txt")
    tree = numa_tree(folder / "numa")
    environ = {
        "HAKURIVER_NODE_NAME": "plain",
        "HAKURIVER_TIMING_HEARTBEAT_INTERVAL": "0.3",
        "HAKURIVER_TIMING_HEARTBEAT_TIMEOUT_FACTOR": "20",
    }
    cluster = Cluster(folder / "state", environ, cpus=set(CPUS))
    shown = f'mount --make-rprivate / && mount --bind {tree} {SYSFS} && exec "$@"'
    prefix = ("unshare", "--mount", "taskset", "-c", ",".join(map(str, CPUS)), "sh", "-c", shown, "sh")
    with ExitStack() as stack:
        cluster.up()
        stack.callback(cluster.down)
        with runner(cluster, "away", {}):
            pass
        stack.enter_context(runner(cluster, "big", fake.environ, *prefix))
        until(lambda: state_of(cluster, "away") == "unreachable", "it is missed", seconds=60)
        yield cluster


def submit(cluster: Cluster, *targets: str, json_: bool = True) -> Result:
    flags = [word for target in targets for word in ("--target", target)]
    before = ["--json"] if json_ else []
    return cluster.cli(*before, "task", "submit", *flags, "--hold", "--", "true")


def errors(result: Result) -> list[dict[str, Any]]:
    """The errors on stderr, each on a line of its own."""
    assert "Traceback" not in result.err
    found = [json.loads(line)["error"] for line in result.err.splitlines() if line.startswith("{")]
    assert all(set(each) == {"code", "message", "hint"} for each in found)
    return found


def test_the_node_is_as_it_is_shown(lab: Cluster) -> None:
    big = lab.ok("node", "show", "big")
    assert [numa["cpus"] for numa in big["numa"]] == [[cpu] for cpu in CPUS]
    assert [gpu["numa"] for gpu in big["gpus"]] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert big["cores"] == len(CPUS)


@pytest.mark.parametrize("target", WRONG)
def test_a_wrong_target_alone(lab: Cluster, target: str) -> None:
    code, message = WRONG[target]
    result = submit(lab, target)
    assert (result.code, result.out) == (code, b""), result
    (error,) = errors(result)
    assert message in error["message"]
    assert "\n" not in error["message"]


def test_each_wrong_target_is_named_and_the_rest_is_submitted(lab: Cluster) -> None:
    wrong, good = list(WRONG), list(GOOD)
    mixed = [each for pair in zip(wrong, [*good] * 5, strict=False) for each in pair]
    result = submit(lab, *mixed)
    assert result.code == 1
    said = [each["message"] for each in errors(result)]
    assert len(said) == len(wrong)
    for target, message in zip(wrong, said, strict=True):
        assert message.startswith(f"{target}: "), message
        assert WRONG[target][1] in message
    made = result.json
    assert [task["target"] for task in made] == mixed[1::2]
    assert {task["batch"] for task in made} == {made[0]["id"]}
    lab.ok("task", "kill", "--batch", str(made[0]["id"]))


def test_wrong_ones_only_are_one_error(lab: Cluster) -> None:
    result = submit(lab, "big::8", "nowhere", "big::3,3", json_=False)
    assert (result.code, result.out) == (7, b"")
    first, *_ = result.err.splitlines()
    for part in ("big has no GPU 8", "there is no node nowhere", "names GPU 3 twice"):
        assert part in first


def test_a_node_out_of_reach_is_named_and_waited_for(lab: Cluster) -> None:
    result = submit(lab, "away", "plain", "nowhere", json_=False)
    assert result.code == 1
    away, plain = map(int, result.out.split())
    lines = result.err.splitlines()
    assert any("away: away is unreachable" in line for line in lines), lines
    assert any("there is no node nowhere" in line for line in lines), lines
    lab.ok("task", "release", str(away), str(plain))
    (ended,) = lab.wait(plain)
    assert ended["state"] == "completed"
    until(lambda: "away is unreachable" in lab.show(away)["reason"], "it says what it waits for")
    with runner(lab, "away", {}):
        (ended,) = lab.wait(away)
        assert (ended["state"], ended["node"]) == ("completed", "away")


def test_good_ones_run_where_they_say(lab: Cluster) -> None:
    script = (
        "echo $HAKURIVER_TARGET_NUMA_NODE/$HAKURIVER_GPUS; sed -n s/Cpus_allowed_list:.//p /proc/self/status"
    )
    for target, (numa, gpus) in GOOD.items():
        task = lab.submit("sh", "-c", script, flags=["--target", target])
        (ended,) = lab.wait(task)
        assert (ended["state"], ended["node"], ended["numa"], ended["gpus"]) == (
            "completed",
            "big",
            numa,
            gpus,
        )
        says, cpus = lab.log(task).decode().split()
        assert says == f"{'' if numa is None else numa}/{','.join(map(str, gpus))}"
        if numa is not None:
            assert cpus == str(CPUS[numa])


def test_what_a_numa_node_can_never_hold(lab: Cluster) -> None:
    for flags, message in (
        (["--cores", "2", "--target", "big:0"], "NUMA node 0 of big has 1 core, not 2"),
        (["--memory", "3G", "--target", "big:0"], "NUMA node 0 of big has 2.1G of memory, not 3G"),
        (["--gpus", "5", "--target", "big:1"], "big has 4 GPUs on NUMA node 1, not 5"),
        (["--gpus", "2", "--target", "big::1"], "--gpus picks free GPUs, the target names some"),
    ):
        result = lab.cli("--json", "task", "submit", *flags, "--", "true")
        assert result.code == (2 if "picks" in message else 7), result
        (error,) = errors(result)
        assert message in error["message"]
    gpus = lab.submit("true", flags=["--gpus", "3", "--target", "big:1"])
    (ended,) = lab.wait(gpus)
    assert set(ended["gpus"]) < {4, 5, 6, 7}
