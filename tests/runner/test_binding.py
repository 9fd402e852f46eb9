"""Where tasks run and what they see: CPUs, shares of them, NUMA nodes, GPUs, limits, our own tools."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.runner import binding
from daemons.runner.cpus import Cpus
from daemons.runner.environment import Account, container_variables, process_variables
from daemons.runner.executors.container import Rules, not_started, request
from daemons.runner.model import Attempt, Phase
from hakuriver.errors import CannotFit, UsageError
from hakuriver.lifecycle import State
from hakuriver.nodewire import AttemptSpec, NumaFacts
from tests import images
from tests.runner.peer import Runner, eventually
from tests.runner.test_docker import crew  # noqa: F401  a fixture

MIB = 2**20
EVERY = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(EVERY) < 2, reason="needs two CPUs")
SHOW = "import os, time\nwhile True:\n print(*sorted(os.sched_getaffinity(0)), flush=True); time.sleep(0.02)"


def attempt(number: int, **facts: Any) -> Attempt:
    given = {"task": number, "attempt": 1, "owner": "a", "command": ["x"], "executor": "process"}
    given |= {"cores": 0, "memory": 0, "target": "n1"}
    return Attempt(AttemptSpec.model_validate(given | facts), "c" * 16, Phase.ACCEPTED, State.ASSIGNED, "")


# ---- who gets which CPUs

asks = st.tuples(
    st.integers(0, 6), st.booleans(), st.sampled_from([None, None, 0, 1]), st.booleans(), st.booleans()
)


@given(st.lists(asks, max_size=12), st.randoms(use_true_random=False))
def test_pinned_cpus_are_nobody_elses_whoever_comes_and_goes(
    steps: list[tuple[int, bool, int | None, bool, bool]], random: Any
) -> None:
    numa = {0: range(8), 1: range(8, 16), 2: ()}
    cpus = Cpus(range(16), numa)
    has: dict[int, tuple[Attempt, int]] = {}
    for number, (cores, pin, near, by_quota, leaves) in enumerate(steps):
        busy = sum(count for _, count in has.values()) + max(1, cores)
        if leaves and has:
            gone = random.choice(sorted(has))
            cpus.leave(has.pop(gone)[0].key)
        elif busy <= 8:  # as the host counts: then even those of one NUMA node find room
            new = attempt(number + 1, cores=cores, pin=pin, numa=near)
            new.cpus = cpus.take(new, by_quota=by_quota)
            has[new.spec.task] = new, max(1, cores)
        for key, moved in cpus.moves():
            has[key[0]][0].cpus = moved
        everything = set(range(16))
        pinned = [set(each.cpus) for each, _ in has.values() if each.spec.pin]
        taken = set[int]().union(*pinned)
        assert sum(map(len, pinned)) == len(taken), "no two pinned ones meet"
        for each, count in has.values():
            spec, mine = each.spec, set(each.cpus) or everything
            if spec.numa is not None:
                assert mine <= set(numa[spec.numa])
            if spec.pin:
                assert len(mine) == count
            else:
                assert not mine & taken
        assert list(cpus.moves()) == [], "it settles at once"


def test_shares_need_no_cpus_of_their_own_and_nodes_without_cpus_bind_to_none() -> None:
    cpus = Cpus(range(4), {0: range(4), 1: ()})
    assert cpus.take(attempt(1, cores=2), by_quota=True) == []
    assert cpus.take(attempt(2, cores=2, numa=1), by_quota=False) == [0, 1]
    assert cpus.take(attempt(3, cores=0), by_quota=False) == []
    assert cpus.take(attempt(4, cores=1, pin=True), by_quota=True) == [2]
    assert dict(cpus.moves()) == {(1, 1): [0, 1, 3], (3, 1): [0, 1, 3]}
    cpus.leave((4, 1))
    assert dict(cpus.moves()) == {(1, 1): [], (3, 1): []}


def test_the_cpus_of_a_task_lie_on_one_numa_node_where_that_costs_nothing() -> None:
    cpus = Cpus(range(8), {0: (0, 2, 4, 6), 1: (1, 3, 5, 7)})
    assert cpus.take(attempt(1, cores=3), by_quota=False) == [0, 2, 4]
    assert cpus.take(attempt(2, cores=3), by_quota=False) == [1, 3, 5]
    assert cpus.take(attempt(3, cores=2), by_quota=False) == [6, 7]


def cpus_of(runner: Runner, task: int) -> list[int]:
    """Where a task that shows it is bound to now."""
    lines = runner.logs(task, tail=2).data.splitlines()
    return [int(word) for word in lines[0].split()] if len(lines) > 1 else []


@needs_two
def test_others_make_room_for_a_pinned_task_and_come_back(shared_runner: Runner) -> None:
    python = (sys.executable, "-S", "-c", SHOW)
    floating = shared_runner.submit(*python, cores=0)
    wide = shared_runner.submit(*python, cores=len(EVERY))
    forks = f"{sys.executable} -S -c '{SHOW}' & wait"
    tree = shared_runner.submit("sh", "-c", forks, cores=0)
    tasks = (floating, wide, tree)
    for task in tasks:
        eventually(lambda task=task: cpus_of(shared_runner, task) == EVERY)  # type: ignore[misc]
    pinned = shared_runner.submit(*python, cores=1, pin=True)
    (own,) = eventually(lambda: cpus_of(shared_runner, pinned))
    rest = [cpu for cpu in EVERY if cpu != own]
    for task in tasks:
        eventually(lambda task=task: cpus_of(shared_runner, task) == rest, what="room")  # type: ignore[misc]
    late = shared_runner.submit(*python, cores=1)
    assert own not in eventually(lambda: cpus_of(shared_runner, late))
    shared_runner.kill(pinned)
    for task in tasks:
        eventually(lambda task=task: cpus_of(shared_runner, task) == EVERY, what="return")  # type: ignore[misc]
    for task in (*tasks, late):
        shared_runner.kill(task, grace=0)


@needs_two
def test_a_runner_that_was_killed_knows_who_is_pinned(runner: Runner) -> None:
    python = (sys.executable, "-S", "-c", SHOW)
    pinned = runner.submit(*python, cores=1, pin=True)
    (own,) = eventually(lambda: cpus_of(runner, pinned))
    runner.crash()
    runner.start()
    task = runner.submit(*python, cores=len(EVERY))
    assert eventually(lambda: cpus_of(runner, task)) == [cpu for cpu in EVERY if cpu != own]
    runner.kill(pinned)
    eventually(lambda: cpus_of(runner, task) == EVERY, what="return")
    runner.kill(task)


# ---- limits really limit


def burnt(runner: Runner, seconds: float, **facts: Any) -> float:
    """CPU seconds that a task got that wanted two CPUs for so long, per second."""
    code = f"""
import os, time
kid = os.fork()
end = time.monotonic() + {seconds}
while time.monotonic() < end: pass
if kid == 0: os._exit(0)
os.waitpid(kid, 0)
print(sum(os.times()[:4]), flush=True)
"""
    task = runner.submit(sys.executable, "-S", "-c", code, **facts)
    end = runner.host.end(task)
    assert end["state"] == "completed", end
    return float(runner.whole_log(task)) / seconds


@pytest.mark.parametrize("cores", [0.5, 1])
def test_cores_of_a_process_are_a_limit(shared_runner: Runner, cores: float) -> None:
    if "cpu_limits=cgroup" not in shared_runner.log:
        pytest.skip("no CPU control groups to make here")
    assert burnt(shared_runner, 2, cores=cores) < cores * 1.15


def test_a_large_reservation_is_no_use_of_memory(shared_runner: Runner) -> None:
    reserve = "import ctypes, mmap; c = ctypes.CDLL(None); c.mmap.restype = ctypes.c_void_p;"
    reserve += "p = c.mmap(None, ctypes.c_size_t(100 * 2**30), 0, 0x4022, -1, 0); assert p != 2**64 - 1;"
    reserve += "data = bytearray(20 * 2**20); import time; time.sleep(0.6)"
    end = shared_runner.run(sys.executable, "-S", "-c", reserve, memory=64 * MIB)
    assert (end["state"], end["oom_events"]) == ("completed", 0)


def test_ulimits_are_set_or_said_to_be_impossible(shared_runner: Runner) -> None:
    task = shared_runner.submit("sh", "-c", "ulimit -Sn; ulimit -Hn", ulimits={"nofile": (77, 88)})
    shared_runner.host.end(task)
    assert shared_runner.whole_log(task) == b"77\n88\n"
    with pytest.raises(UsageError, match="/dev/shm"):
        shared_runner.submit("true", shm_size=MIB)


# ---- NUMA


def numa(*nodes: tuple[int, list[int], int]) -> tuple[NumaFacts, ...]:
    return tuple(NumaFacts(id=number, cpus=cpus, memory=memory) for number, cpus, memory in nodes)


def test_memory_is_bound_only_to_nodes_that_have_some() -> None:
    topology = numa((0, [0, 1], 10), (1, [2, 3], 0), (8, [], 10))
    assert binding.memory_nodes(attempt(1, numa=0).spec, topology) == [0]
    assert binding.memory_nodes(attempt(1, numa=1).spec, topology) == []
    assert binding.memory_nodes(attempt(1, numa=8).spec, topology) == [8]
    assert binding.memory_nodes(attempt(1).spec, topology) == []
    with pytest.raises(CannotFit, match="no NUMA node 3"):
        binding.check(attempt(1, numa=3).spec, topology, "n1")


def test_memory_of_a_process_is_bound_to_its_node(shared_runner: Runner) -> None:
    task = shared_runner.submit("cat", "/proc/self/numa_maps", numa=0)
    shared_runner.host.end(task)
    policies = {line.split()[1] for line in shared_runner.whole_log(task).splitlines()}
    assert policies == {b"bind:0"}
    with pytest.raises(CannotFit, match="no NUMA node 7"):
        shared_runner.submit("true", numa=7)


# ---- what tasks see of GPUs

ME = Account("me", "/home/me", "/bin/sh")


def variables(spec: AttemptSpec, *, gpus: bool) -> dict[str, str]:
    return process_variables(spec, ME, node="n1", shared="/s", temp="/t", tools="/tools", gpus=gpus)


def test_processes_see_their_gpus_by_uuid_and_none_without() -> None:
    own = attempt(1, gpus=[3, 1], gpu_uuids=["GPU-c", "GPU-a"], numa=1).spec
    found = variables(own, gpus=True)
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-c,GPU-a"
    assert (found["HAKURIVER_GPUS"], found["HAKURIVER_TARGET_NUMA_NODE"]) == ("3,1", "1")
    assert variables(attempt(1).spec, gpus=True)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in variables(attempt(1).spec, gpus=False)
    asked = attempt(1, env={"CUDA_VISIBLE_DEVICES": "0"}).spec
    assert variables(asked, gpus=True)["CUDA_VISIBLE_DEVICES"] == "0"


def test_every_task_knows_its_place_in_its_batch() -> None:
    found = variables(attempt(1, batch_index=3, batch_size=8).spec, gpus=False)
    assert (found["HAKURIVER_BATCH_INDEX"], found["HAKURIVER_BATCH_SIZE"]) == ("3", "8")
    assert found["HAKURIVER_NODE"] == "n1"


def test_containers_get_devices_instead_of_variables(tmp_path: Path) -> None:
    own = attempt(1, executor="docker", image="i", gpus=[1], gpu_uuids=["GPU-b"], numa=1)
    own.cpus = [2, 3]
    found = ordered(own, tmp_path)
    (wanted,) = found["host_config"]["DeviceRequests"]
    assert (wanted["DeviceIDs"], wanted["Capabilities"], wanted["Count"]) == (["GPU-b"], [["gpu"]], 0)
    assert found["environment"]["HAKURIVER_GPUS"] == "1"
    assert not {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"} & set(found["environment"])
    assert (found["host_config"]["CpusetCpus"], found["host_config"]["CpusetMems"]) == ("2,3", "1")
    assert container_variables(attempt(1).spec, node="n1", gpus=True)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "NVIDIA_VISIBLE_DEVICES" not in container_variables(attempt(1).spec, node="n1", gpus=False)


def test_our_tool_is_not_put_below_a_mount_of_the_task(tmp_path: Path) -> None:
    def where(target: str) -> list[str]:
        mounts = [{"source": str(tmp_path), "target": target}]
        found = ordered(attempt(1, executor="docker", image="i", mounts=mounts), tmp_path)["host_config"]
        return [each["Target"] for each in found["Mounts"] if each["Source"] == str(tmp_path / "hakurun")]

    assert where("/data") == ["/usr/local/bin/hakurun"]
    assert where("/usr/local") == []
    assert where("/usr/local/bin/hakurun") == []


def test_an_engine_without_nvidias_toolkit_is_called_so(tmp_path: Path) -> None:
    said = 'could not select device driver "" with capabilities: [[gpu]]'
    assert "node n1 can't give GPUs to containers" in not_started(said, rules_of(tmp_path))
    assert not_started("no space", rules_of(tmp_path)) == "the engine can't start it: no space"


def ordered(work: Attempt, folder: Path) -> dict[str, Any]:
    """What the engine is asked to create."""
    api = docker.APIClient(version="1.41")
    image = {"Id": "sha256:1", "Config": {"Env": ["PATH=/usr/local/bin:/bin"]}}
    return request(api, work, image, rules_of(folder), wrapped=True, init=True)


def rules_of(folder: Path) -> Rules:
    return Rules(
        node="n1",
        runner="r",
        attempts=folder,
        shared=folder,
        temp=folder,
        mount_roots=(str(folder),),
        allow_privileged=False,
        privileged=False,
        additional_mounts=(),
        cpus=4.0,
        numa=numa((0, [0, 1], 10), (1, [2, 3], 10)),
        has_gpus=lambda: True,
        hakurun=folder / "hakurun",
    )


# ---- containers for real


def box(runner: Runner, *command: str, **facts: Any) -> int:
    return runner.submit(
        *command, **{"executor": "docker", "image": images.BUSYBOX, "memory": 64 * MIB} | facts
    )


ALLOWED = "while :; do sed -n s/Cpus_allowed_list:.//p /proc/self/status; sleep 0.05; done"


def allowed(runner: Runner, task: int) -> str:
    lines = runner.logs(task, tail=2).data.decode().splitlines()
    return lines[0] if len(lines) > 1 else ""


@needs_two
@pytest.mark.docker
def test_containers_float_beside_pinned_ones(crew: Runner) -> None:  # noqa: F811
    everything = f"{EVERY[0]}-{EVERY[-1]}"
    floating = box(crew, "sh", "-c", ALLOWED, cores=1)
    eventually(lambda: allowed(crew, floating) == everything)
    pinned = box(crew, "sh", "-c", ALLOWED, cores=1, pin=True)
    own = eventually(lambda: allowed(crew, pinned))
    assert own.isdigit()
    eventually(lambda: allowed(crew, floating) not in ("", own, everything), what="room")
    crew.kill(pinned, grace=0)
    eventually(lambda: allowed(crew, floating) == everything, what="return")
    crew.kill(floating, grace=0)


@pytest.mark.docker
def test_what_a_container_may_use(crew: Runner) -> None:  # noqa: F811
    script = (
        "ulimit -Sn; ulimit -Hn; df -k /dev/shm | tail -1; cat /proc/self/status; head -1 $(which hakurun);"
    )
    script += " touch $(which hakurun) || hakurun x || echo $?"
    facts = {"ulimits": {"nofile": (77, 88)}, "shm_size": 3 * MIB, "numa": 0}
    task = box(crew, "sh", "-c", script, **facts)
    crew.host.end(task)
    lines = crew.whole_log(task).decode().splitlines()
    assert lines[:2] == ["77", "88"]
    assert lines[2].split()[1] == str(3 * 1024)
    assert "Mems_allowed_list:\t0" in lines
    assert lines[-2:] == ["#!/bin/sh", "127"]
    errors = crew.whole_log(task, "stderr").decode().splitlines()
    assert "Read-only" in errors[0]
    assert errors[1] == "hakurun: there is no python3 on PATH here; it needs Python 3.8 or later"


def test_a_task_finds_our_tool_on_its_path(shared_runner: Runner) -> None:
    task = shared_runner.submit("hakurun", "echo", "span:[a,b]", env={"PATH": "/usr/bin:/bin"})
    end = shared_runner.host.end(task)
    assert end["state"] == "completed", shared_runner.whole_log(task, "stderr")
    assert {b"a", b"b"} <= set(shared_runner.whole_log(task).split())
