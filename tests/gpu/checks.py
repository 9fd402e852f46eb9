"""The probe against ``nvidia-smi``, and tasks against CUDA itself. One GPU that nobody uses is enough."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons.runner.probes.helper import Helper
from daemons.runner.probes.nvml import Device
from tests.e2e.cluster import Cluster
from tests.waiting import until

MEBI = 2**20
PATHS = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
"""Where the driver's libraries are, on machines that don't have them where all libraries are."""
DEVICE = str(Path(__file__).with_name("device.py"))
FIELDS = (
    "index",
    "uuid",
    "name",
    "pci.bus_id",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "power.draw",
    "mig.mode.current",
)
Row = dict[str, str]


def nvidia_smi(query: str) -> list[list[str]]:
    words = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines()) if row]


def gpus() -> list[Row]:
    """What ``nvidia-smi`` says of every GPU now."""
    return [dict(zip(FIELDS, row, strict=True)) for row in nvidia_smi(f"--query-gpu={','.join(FIELDS)}")]


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    found = Helper()
    yield found
    found.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("gpu") / "state", environ=PATHS)
    found.up()
    yield found
    found.down()


def known(text: str) -> float | None:
    """A number, None for every way in which ``nvidia-smi`` says that there is none."""
    return None if text.startswith("[") or text in ("N/A", "") else float(text)


def near(own: float | None, before: str, after: str, slack: float) -> bool:
    """Whether a value lies where it was before and after it was measured, within ``slack``."""
    seen = known(before), known(after)
    if own is None or seen[0] is None or seen[1] is None:
        return own is None and None in seen
    return min(seen[0], seen[1]) - slack <= own <= max(seen[0], seen[1]) + slack


MEASURED: dict[str, tuple[Callable[[Device], float | None], float]] = {
    "memory.used": (lambda gpu: None if gpu.memory_used is None else gpu.memory_used / MEBI, 1.0),
    "utilization.gpu": (lambda gpu: gpu.utilization, 5.0),
    "temperature.gpu": (lambda gpu: gpu.temperature, 1.0),
    "power.draw": (lambda gpu: gpu.power, 5.0),
}


def disagreements(helper: Helper) -> list[str]:
    """What the probe says of measured fields and ``nvidia-smi`` doesn't, before or after."""
    before, devices, after = gpus(), helper.ask(30), gpus()
    whole = [each for each in devices if each.parent is None]
    return [
        f"GPU {own.index} {field}: the probe {value(own)}, nvidia-smi {old[field]} and then {new[field]}"
        for own, old, new in zip(whole, before, after, strict=True)
        for field, (value, slack) in MEASURED.items()
        if not near(value(own), old[field], new[field], slack)
    ]


def test_the_probe_agrees_with_nvidia_smi_about_what_there_is(helper: Helper) -> None:
    whole = [each for each in helper.ask(60) if each.parent is None]
    told = gpus()
    assert [str(each.index) for each in whole] == [row["index"] for row in told]
    assert [each.uuid for each in whole] == [row["uuid"] for row in told]
    assert [each.model for each in whole] == [row["name"] for row in told]
    assert [each.bus.upper() for each in whole] == [row["pci.bus_id"].upper() for row in told]
    assert [each.memory // MEBI for each in whole] == [int(known(row["memory.total"]) or 0) for row in told]
    assert [each.mig for each in whole] == [row["mig.mode.current"] == "Enabled" for row in told]


def test_the_probe_agrees_with_nvidia_smi_about_what_changes(helper: Helper) -> None:
    """Between two of its answers. A GPU at work moves on between them: so several times."""
    tries = 20
    while found := disagreements(helper):
        tries -= 1
        assert tries, "\n".join(found)


def test_the_probe_agrees_with_nvidia_smi_about_who_computes(helper: Helper) -> None:
    with subprocess.Popen([sys.executable, DEVICE, "--stay"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            own = {(each.uuid, pid) for each in helper.ask(30) for pid, _ in each.processes}
            told = {(row[0], int(row[1])) for row in nvidia_smi("--query-compute-apps=gpu_uuid,pid")}
            assert own, "at least the one just started"
            assert own == told
        finally:
            process.kill()


def seen(cluster: Cluster, index: int) -> dict[str, Any]:
    """A GPU as the host shows it."""
    (node,) = cluster.ok("nodes")
    found: dict[str, Any] = next(gpu for gpu in node["gpus"] if gpu["index"] == index)
    return found


def submit(cluster: Cluster, *words: str, flags: tuple[str, ...] = ()) -> int:
    """A task that says which devices it sees."""
    paths = [word for name, value in PATHS.items() for word in ("--env", f"{name}={value}")]
    return cluster.submit(sys.executable, DEVICE, *words, flags=(*flags, *paths))


def test_a_task_sees_exactly_its_gpu(cluster: Cluster) -> None:
    task = submit(cluster, "--stay", flags=("--gpus", "1"))
    shown = cluster.running(task)
    (index,), (uuid,) = shown["gpus"], shown["gpu_uuids"]
    try:
        line = until(lambda: cluster.log(task).strip(), "the task's word", seconds=60)
        devices = json.loads(line)
        assert len(devices) == 1
        if uuid.startswith("GPU-"):
            assert devices == [uuid]
        gpu = until(
            lambda: found if (found := seen(cluster, index))["processes"] else None, "it is seen", seconds=30
        )
        assert gpu["task"] == task
        assert gpu["external"] is False
        assert {each["task"] for each in gpu["processes"]} <= {task, None}
    finally:
        cluster.cli("task", "kill", str(task))
    assert cluster.wait(task)[0]["state"] == "killed"


def test_a_task_without_gpus_sees_none(cluster: Cluster) -> None:
    task = submit(cluster)
    (ended,) = cluster.wait(task)
    assert ended["state"] == "failed" or json.loads(cluster.log(task)) == []


def test_somebody_elses_gpu_is_left_alone(cluster: Cluster) -> None:
    with subprocess.Popen([sys.executable, DEVICE, "--stay"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            uuid = json.loads(process.stdout.readline())[0]
            (node,) = cluster.ok("nodes")
            index = next(gpu["index"] for gpu in node["gpus"] if gpu["uuid"] == uuid)
            gpu = until(
                lambda: found if (found := seen(cluster, index))["external"] else None,
                "it is seen",
                seconds=30,
            )
            assert gpu["task"] is None
        finally:
            process.kill()
    until(lambda: not seen(cluster, index)["external"], "it is free again", seconds=30)
