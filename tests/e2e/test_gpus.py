"""Eight GPUs, an engine that hands them out, and all between the command line and pynvml in a container."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hakuriver.lifecycle import LIVE
from tests import images
from tests.e2e.cluster import Cluster
from tests.fakes import driver, nvidia
from tests.fakes.driver import FakeDriver, uuid
from tests.runner.engines import OwnEngine
from tests.waiting import until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="an engine of its own needs root"),
]
EIGHT = set(range(8))
SMALL = [f"{gpu} {fact}" for gpu in (6, 7) for fact in ("name NVIDIA Fake A10", "memtotal 24576")]
"""Two of them are of another kind."""
LOOK = """
import json, os, time
try:
    import pynvml
    pynvml.nvmlInit()
    each = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    seen = list(map(pynvml.nvmlDeviceGetUUID, each))
except pynvml.NVMLError as error:
    seen = str(error)
names = ("HAKURIVER_GPUS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
print(json.dumps([seen, *map(os.environ.get, names)]), flush=True)
while os.path.exists("/shared/stay"): time.sleep(0.05)
"""
WITHOUT_ONE = "7 GPUs on n1 (6 of 8 free, 1 used by others)"
SAY = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES; exec sleep 600"]


@dataclass(frozen=True)
class Lab:
    """A cluster of one node n1, its GPUs, and where its engine's hook is."""

    cluster: Cluster
    fake: FakeDriver
    hook: Path

    def say(self, *lines: str) -> None:
        self.fake.say(*SMALL, *lines)

    def gpus(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.cluster.ok("node", "show", "n1")["gpus"]
        return found

    def stay(self) -> None:
        """Let tasks in containers stay after they have looked."""
        self.cluster.layout.shared.mkdir(exist_ok=True)
        (self.cluster.layout.shared / "stay").touch()

    def boxed(self, *flags: str) -> int:
        """A task in a container that says which GPUs it sees."""
        flags = ("--image", images.PYTHON, "--memory", "256M", "--cores", "0", *flags)
        return self.cluster.submit("python3", "-c", LOOK, flags=flags)

    def plain(self, *flags: str) -> int:
        """A task without a container that says which GPUs it was given, and stays."""
        return self.cluster.submit(*SAY, flags=["--cores", "0", *flags])

    def said(self, task: int) -> Any:
        """What a container saw."""
        line = until(lambda: self.cluster.log(task).strip(), f"task {task} has looked", seconds=30)
        return json.loads(line)

    def told(self, task: int) -> list[str]:
        """What a task without a container was given."""
        line = until(lambda: self.cluster.log(task).strip(), f"task {task} has said it")
        return line.decode().split(",")

    def kill(self, *tasks: int) -> None:
        self.cluster.ok("task", "kill", *map(str, tasks))
        self.cluster.wait(*tasks)

    def waits(self, task: int, words: str) -> None:
        """Until a task that must not start waits for this reason."""

        def found() -> bool:
            shown = self.cluster.show(task)
            assert shown["state"] == "pending", shown
            return words in shown["reason"]

        until(found, f"task {task} waits: {words}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("gpus")
    fake = FakeDriver(driver.build(folder / "library"), folder / "gpus.txt")
    hooks = nvidia.install(folder / "hook", fake.library)
    engine = OwnEngine(environ=os.environ | hooks)
    environ = {
        **hooks,
        **fake.environ,
        "DOCKER_HOST": engine.url,
        "HAKURIVER_NODE_NAME": "n1",
        "HAKURIVER_TIMING_HEARTBEAT_INTERVAL": "0.3",
        "HAKURIVER_TIMING_HEARTBEAT_TIMEOUT_FACTOR": "100",
    }
    lab = Lab(Cluster(folder / "state", environ), fake, folder / "hook")
    lab.say()
    with contextlib.ExitStack() as stack:
        engine.start()
        stack.callback(engine.wipe)
        with contextlib.closing(engine.client) as client:
            images.python(client)
        lab.cluster.up()
        stack.callback(lab.cluster.down)
        yield lab


@pytest.fixture
def lab(made: Lab) -> Iterator[Lab]:
    """The cluster with nothing in it, and all GPUs as they were in the beginning."""
    yield made
    (made.hook / "broken").unlink(missing_ok=True)
    (made.cluster.layout.shared / "stay").unlink(missing_ok=True)
    made.say()
    live = [task["id"] for task in made.cluster.ok("task", "list", "--state", ",".join(LIVE))]
    if live:
        made.kill(*live)
    until(lambda: all(not gpu["external"] and not gpu["lost"] for gpu in made.gpus()), "all GPUs are well")


def uuids(gpus: Sequence[int]) -> list[str]:
    return [uuid(gpu) for gpu in gpus]


def test_a_container_sees_the_gpus_of_its_target_and_no_others(lab: Lab) -> None:
    named = lab.boxed("--target", "n1::1,6")
    (ended,) = lab.cluster.wait(named)
    assert (ended["state"], ended["executor"], ended["gpus"]) == ("completed", "docker", [1, 6]), ended
    assert ended["gpu_uuids"] == uuids([1, 6])
    assert lab.said(named) == [uuids([1, 6]), "1,6", None, ",".join(uuids([1, 6]))]
    picked, without = lab.boxed("--gpus", "2"), lab.boxed()
    ended, _ = lab.cluster.wait(picked, without)
    assert len(ended["gpus"]) == 2
    assert lab.said(picked)[0] == ended["gpu_uuids"] == uuids(ended["gpus"])
    assert lab.said(without) == ["NVML Shared Library Not Found", None, None, "void"]


def test_gpus_are_given_once_whatever_is_killed(lab: Lab) -> None:
    lab.stay()
    tasks = [lab.boxed("--target", "n1::7")]
    lab.cluster.running(tasks[0])
    tasks += [lab.boxed("--gpus", "3"), lab.plain("--gpus", "2")]
    for task in tasks:
        lab.cluster.running(task)
    seen = lab.said(tasks[0])[0] + lab.said(tasks[1])[0]
    lab.cluster.kill9("host", "runner")
    assert {task["state"] for task in lab.cluster.ok("task", "show", *map(str, tasks))} == {"running"}
    rest = lab.plain("--gpus", "2")
    lab.cluster.running(rest)
    seen += lab.told(tasks[2]) + lab.told(rest)
    assert sorted(seen) == uuids(range(8))
    shown = lab.gpus()
    assert [gpu["task"] for gpu in shown].count(rest) == 2
    assert None not in [gpu["task"] for gpu in shown]
    late = lab.plain("--gpus", "1")
    lab.waits(late, "1 GPU on n1 (0 of 8 free)")
    explained = lab.cluster.ok("task", "explain", str(late))["nodes"][0]
    assert (explained["fits"], len(explained["tasks"])) == (False, 1)
    assert explained["tasks"][0] in {*tasks, rest}
    lab.kill(tasks[0])
    assert lab.cluster.running(late)["gpus"] == [7]


def test_gpus_of_a_model_and_with_so_much_memory(lab: Lab) -> None:
    one, two = lab.plain("--gpus", "1:a10"), lab.plain("--gpus", "2", "--gpu-memory", "70G")
    assert lab.cluster.running(one)["gpus"][0] in (6, 7)
    assert set(lab.cluster.running(two)["gpus"]) < set(range(6))
    both = lab.plain("--gpus", "2:A10")
    lab.waits(both, "2 GPUs A10 on n1 (1 of 2 free)")
    lab.kill(one)
    assert lab.cluster.running(both)["gpus"] == [6, 7]
    for flags, says in (
        (["--gpus", "3:a10"], "2 GPUs a10, not 3"),
        (["--gpus", "1:v100"], "no GPUs v100, not 1"),
        (["--gpus", "7", "--gpu-memory", "70G"], "6 GPUs with 70G, not 7"),
        (["--gpus", "1", "--gpu-memory", "90G"], "no GPUs with 90G"),
    ):
        refused = lab.cluster.cli("task", "submit", "--cores", "0", *flags, "--", "true")
        assert (refused.code, refused.out) == (7, b""), refused
        assert says in refused.err


def test_a_lost_gpu_is_not_given_until_it_is_back(lab: Lab) -> None:
    lab.stay()
    holder = lab.boxed("--target", "n1::2")
    lab.cluster.running(holder)
    lab.say(f"2 ret {driver.LOST}", f"5 ret {driver.LOST}")
    until(lambda: [gpu["lost"] for gpu in lab.gpus()].count("GPU is lost") == 2, "it is said")
    lines = lab.cluster.cli("nodes", "--gpus").out.decode().splitlines()
    assert "lost: GPU is lost " in lines[1 + 5]
    assert f"lost: GPU is lost, task {holder} " in lines[1 + 2], "it is still that task's"
    assert "6/8 free" in lab.cluster.cli("nodes").out.decode()
    six = lab.plain("--gpus", "6")
    assert set(lab.cluster.running(six)["gpus"]) == EIGHT - {2, 5}
    lab.kill(six, holder)
    warned = lab.cluster.cli("task", "submit", "--target", "n1::5", "--cores", "0", "--", *SAY)
    assert (warned.code, warned.err.count("\n")) == (0, 1)
    assert "n1::5: GPU 5 of n1 is lost: GPU is lost" in warned.err
    named = int(warned.out)
    lab.waits(named, "GPU 5 of n1: GPU is lost")
    all_of_them = lab.plain("--gpus", "7")
    lab.waits(all_of_them, "7 GPUs on n1 (6 of 8 free, 2 lost)")
    assert "2 lost" in lab.cluster.cli("task", "explain", str(all_of_them)).out.decode()
    lab.say()
    assert lab.cluster.running(named)["gpus"] == [5]
    assert set(lab.cluster.running(all_of_them)["gpus"]) == EIGHT - {5}


def test_a_gpu_that_somebody_else_uses(lab: Lab) -> None:
    with stranger() as pid:
        lab.say(f"5 proc {pid} 4096")
        until(lambda: lab.gpus()[5]["external"], "it is seen")
        ours = lab.plain("--gpus", "1")
        (given,) = lab.cluster.running(ours)["gpus"]
        own = pid_of(lab.cluster, ours)
        lab.say(f"5 proc {pid} 4096", f"{given} proc {own} 512")
        until(lambda: lab.gpus()[given]["processes"], "ours is seen")
        shown = lab.gpus()
        assert [gpu["index"] for gpu in shown if gpu["external"]] == [5]
        assert [(each["pid"], each["task"]) for each in shown[5]["processes"]] == [(pid, None)]
        assert [(each["pid"], each["task"]) for each in shown[given]["processes"]] == [(own, ours)]
        waiting = lab.plain("--gpus", "7")
        lab.waits(waiting, WITHOUT_ONE)
        warned = lab.cluster.cli("task", "submit", "--target", "n1::5", "--cores", "0", "--", "true")
        assert warned.code == 0
        assert warned.err == "hakuriver: n1::5: somebody else uses GPU 5 of n1\n"
        (ended,) = lab.cluster.wait(int(warned.out))
        assert (ended["state"], ended["gpus"]) == ("completed", [5])
        # who was just started doesn't know it yet, and must not guess
        for daemon in ("host", "runner"):
            lab.cluster.kill9(daemon)
            until(lambda: lab.gpus()[5]["external"], "it knows it again")
            lab.waits(waiting, WITHOUT_ONE)
    lab.say()
    assert set(lab.cluster.running(waiting)["gpus"]) == EIGHT - {given}


@contextlib.contextmanager
def stranger() -> Iterator[int]:
    """A process of somebody else."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def pid_of(cluster: Cluster, task: int) -> int:
    """A process of a task."""
    marks = (f"HAKURIVER_TASK_ID={task}\0".encode(), str(cluster.folder).encode())
    return next(
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if all(mark in environment(path) for mark in marks)
    )


def environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def test_devices_that_the_engine_can_not_hand_out(lab: Lab) -> None:
    (lab.hook / "broken").write_text("device error: GPU-x: unknown device\n")
    task = lab.boxed("--gpus", "8")
    (ended,) = lab.cluster.wait(task)
    assert (ended["state"], ended["exit_code"]) == ("failed", None)
    assert "the engine can't start it" in ended["error"]
    assert "device error: GPU-x: unknown device" in ended["error"]
    assert {gpu["task"] for gpu in lab.gpus()} == {None}, "they are free again"
