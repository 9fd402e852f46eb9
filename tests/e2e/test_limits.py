"""Limits of cores and memory hold, in containers and without; only what was over its memory is called so."""

from __future__ import annotations

import math
import sys

import docker
import pytest

from tests import images
from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.docker
BURN = """
import os, time
start = time.monotonic()
kid = os.fork()
while time.monotonic() < start + 2: pass
if kid == 0: os._exit(0)
os.waitpid(kid, 0)
print(sum(os.times()[:4]) / (time.monotonic() - start))
"""
RESERVE = """
import ctypes, time
c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p
where = c.mmap(None, ctypes.c_size_t(100 * 2**30), 0, 0x4022, -1, 0)  # PROT_NONE; PRIVATE ANONYMOUS NORESERVE
assert where != 2**64 - 1
data = bytearray(20 * 2**20)
time.sleep(0.6)
print("reserved")
"""
EAT = "data = bytearray(200 * 2**20); print(len(data))"
NO_ROOM = "bytearray(2**60)"


@pytest.fixture(params=["docker", "process"])
def python(request: pytest.FixtureRequest, engine: docker.DockerClient) -> tuple[list[str], str]:
    """Options of a submission, and how its command starts to run Python."""
    return (
        (["--image", images.python(engine)], "python3") if request.param == "docker" else ([], sys.executable)
    )


def test_cores_are_a_limit(cluster: Cluster, python: tuple[list[str], str]) -> None:
    flags, program = python
    tasks = {
        cores: cluster.submit(program, "-S", "-c", BURN, flags=[*flags, "--cores", str(cores)])
        for cores in (0.5, 1)
    }
    assert {task["state"] for task in cluster.wait(*tasks.values())} == {"completed"}
    whole = not flags and "cpu_limits=cgroup" not in (cluster.layout.runner / "runner.log").read_text()
    for cores, task in tasks.items():
        used = float(cluster.log(task))
        assert 0.02 < used < (math.ceil(cores) if whole else cores) * 1.15, f"{used} of {cores} cores"


def test_only_what_was_over_its_memory_is_called_so(cluster: Cluster, python: tuple[list[str], str]) -> None:
    flags, program = python
    flags = [*flags, "--memory", "64M", "--cores", "0"]
    expected = {
        (program, "-S", "-c", EAT): ("killed_oom", None),
        (program, "-S", "-c", RESERVE): ("completed", 0),
        ("sh", "-c", "kill -9 $$"): ("failed", None),
        ("sh", "-c", "exit 137"): ("failed", 137),
        ("sh", "-c", f"{program} -S -c '{EAT}'; exit 3"): ("failed", 3),
        (program, "-S", "-c", NO_ROOM): ("failed", 1),
    }
    tasks = {command: cluster.submit(*command, flags=flags) for command in expected}
    cluster.wait(*tasks.values())
    for command, (state, code) in expected.items():
        shown = cluster.show(tasks[command])
        assert shown["state"] == state, shown
        assert code is None or shown["exit_code"] == code, shown
        assert ("memory limit" in shown["reason"]) == (state == "killed_oom"), shown
    assert cluster.log(tasks[program, "-S", "-c", RESERVE]) == b"reserved\n"
    assert b"MemoryError" in cluster.log(tasks[program, "-S", "-c", NO_ROOM], "--stderr")
