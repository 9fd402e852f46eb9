"""A real runner on a machine with eight GPUs: what it tells the host as they change under it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import docker
import pytest

from daemons.runner.probes.gpu import NOT_LISTED
from tests.fakes import driver
from tests.fakes.driver import FakeDriver, uuid
from tests.runner.peer import Host, Runner, eventually

GIB = 2**30
_MARKS = count(100_000, 1000)  # milliwatts
Gpu = dict[str, Any]


class Busy(Host):
    """A host that can't take some registrations."""

    refusals = 0

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/register") and self.refusals:
            self.refusals -= 1
            return None
        return super().answer(path, body)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module")
def crew(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A runner of this module, on a machine with eight GPUs."""
    yield from _runner(FakeDriver(library, tmp_path_factory.mktemp("crew") / "gpus.txt"))


@pytest.fixture
def fresh(library: Path, tmp_path: Path) -> Iterator[Runner]:
    """A runner of one test, which has to start it."""
    yield from _runner(FakeDriver(library, tmp_path / "gpus.txt"))


def _runner(fake: FakeDriver) -> Iterator[Runner]:
    host = Busy()
    # numbers of their own: container names on one engine must not meet
    first = int.from_bytes(os.urandom(4), "big") + 1
    found = Runner(fake.state.parent / "state", host, environ=fake.environ, next_task=first)
    try:
        yield found
    finally:
        fake.say()  # whoever hangs in it may go
        found.close()
        host.close()


def fake_of(runner: Runner) -> FakeDriver:
    return FakeDriver(
        Path(runner.environ["LD_LIBRARY_PATH"], driver.SONAME), Path(runner.environ["FAKE_NVML_STATE"])
    )


@pytest.fixture
def runner(crew: Runner) -> Runner:
    """The runner of the module, with all GPUs as they were in the beginning."""
    fake_of(crew).say()
    if not crew.host.registrations:
        crew.start()
    assert not lost(said(crew))
    crew.host.wait(lambda: len(facts(crew)["gpus"]) == 8, what="eight")
    return crew


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def facts(runner: Runner) -> dict[str, Any]:
    found: dict[str, Any] = runner.host.registrations[-1]["facts"]
    return found


def said(runner: Runner, *lines: str) -> list[Gpu]:
    """Let the driver say something else; the GPUs of a heartbeat that was measured since, told by the power
    of the first one."""
    mark = next(_MARKS)
    fake_of(runner).say(*lines, f"0 power {mark}")
    seen = len(runner.host.heartbeats)
    return runner.host.wait(lambda: _marked(runner.host, seen, mark), what="such a heartbeat")


def _marked(host: Host, since: int, mark: int) -> list[Gpu] | None:
    beats: list[list[Gpu]] = [each["usage"]["gpus"] for each in host.heartbeats[since:]]
    return next((gpus for gpus in beats if gpus and gpus[0]["power"] == mark / 1000), None)


def lost(gpus: list[Gpu]) -> dict[int, str]:
    """Which of the GPUs are lost, and why."""
    return {place: gpu["lost"] for place, gpu in enumerate(gpus) if gpu["lost"]}


def all_lost(runner: Runner, reason: str) -> None:
    """Wait until there is word that none can be used."""
    host = runner.host
    host.wait(lambda: reason in facts(runner)["unavailable"].get("gpu", ""), what=reason)
    seen = len(host.heartbeats)
    host.wait(lambda: len(host.heartbeats) > seen + 1, what="two heartbeats")
    found = lost(host.heartbeats[-1]["usage"]["gpus"])
    assert len(found) == len(facts(runner)["gpus"]) == 8
    assert set(found.values()) == {facts(runner)["unavailable"]["gpu"]}


def all_back(runner: Runner) -> None:
    assert not lost(said(runner))
    runner.host.wait(lambda: "gpu" not in facts(runner)["unavailable"], what="word of it")


def test_eight_gpus_and_how_busy_they_are(runner: Runner) -> None:
    registered = len(runner.host.registrations)
    gpus = facts(runner)["gpus"]
    assert [gpu["index"] for gpu in gpus] == list(range(8))
    assert [gpu["uuid"] for gpu in gpus] == [uuid(n) for n in range(8)]
    assert {gpu["model"] for gpu in gpus} == {"NVIDIA Fake H100 80GB HBM3"}
    assert {gpu["memory"] for gpu in gpus} == {80 * GIB}
    assert [gpu["numa"] for gpu in gpus] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert "gpu" not in facts(runner)["unavailable"]
    before = said(runner)
    assert [gpu["utilization"] for gpu in before] == [10 * n for n in range(8)]
    assert [gpu["temperature"] for gpu in before] == [30 + n for n in range(8)]
    assert [gpu["power"] for gpu in before[1:]] == [70 + n for n in range(1, 8)]
    assert [gpu["memory_used"] for gpu in before] == [n * GIB // 2 for n in range(8)]
    after = said(
        runner,
        *("3 util 57", "3 temp 81", "3 power 250500", "3 memused 4096"),
        *("5 nosupport util", "5 nosupport power"),
    )
    now = {"utilization": 57, "temperature": 81, "power": 250.5, "memory_used": 4 * GIB}
    assert after[3] == before[3] | now
    assert after[4] == before[4]
    assert after[5] == before[5] | {"utilization": None, "power": None}
    assert len(runner.host.registrations) == registered, "what a machine is did not change"


def test_a_gpu_is_lost_and_comes_back(runner: Runner) -> None:
    registered = len(runner.host.registrations)
    gpus = said(runner, f"3 ret {driver.LOST}")
    assert lost(gpus) == {3: "GPU is lost"}
    assert (gpus[3]["utilization"], gpus[4]["utilization"]) == (None, 40)
    assert len(runner.host.registrations) == registered, "it is a GPU of this machine all the same"
    runner.crash()
    runner.start()
    assert [gpu["uuid"] for gpu in facts(runner)["gpus"]] == [uuid(n) for n in range(8)], "who it was is kept"
    assert lost(said(runner, f"3 ret {driver.LOST}")) == {3: "GPU is lost"}
    gpus = said(runner)
    assert (lost(gpus), gpus[3]["utilization"]) == ({}, 30)
    told = len(runner.host.registrations)
    assert lost(said(runner, f"6 sick {driver.LOST}")) == {6: "GPU is lost"}, "though it still says its name"
    said(runner, f"6 sick {driver.LOST}")
    assert len(runner.host.registrations) == told, "it is still known what it is"
    assert lost(said(runner, "count 7")) == {7: NOT_LISTED}


def test_who_computes_there(runner: Runner, stranger: subprocess.Popen[bytes]) -> None:
    family = "sleep 1001 & (setsid sleep 1002 &) ; wait"
    holder = runner.submit("sh", "-c", family, gpu_uuids=[uuid(2)], gpus=[2])
    eventually(lambda: len(runner.pids(holder)) >= 3, what="the task's processes")
    ours = [f"2 proc {pid} 100" for pid in runner.pids(holder)]
    gpu = said(runner, *ours)[2]
    assert gpu["external"] is False
    assert {each["task"] for each in gpu["processes"]} == {holder}
    assert {each["memory"] for each in gpu["processes"]} == {100 * 2**20}
    assert all(each["user"] for each in gpu["processes"])

    gpus = said(runner, *ours, f"5 proc {stranger.pid} 7", ours[0].replace("2 ", "6 ", 1))
    assert [place for place, gpu in enumerate(gpus) if gpu["external"]] == [5, 6]
    (other,) = gpus[5]["processes"]
    assert (other["pid"], other["task"], other["memory"]) == (stranger.pid, None, 7 * 2**20)
    assert gpus[6]["processes"][0]["task"] == holder, "one that it was not given"
    assert said(runner, *ours, f"2 proc {stranger.pid} 7")[2]["external"] is True, "also beside ours"
    runner.crash()
    runner.start()
    assert said(runner, *ours)[2]["external"] is False, "a runner knows its attempts before it judges"
    runner.kill(holder)
    assert said(runner, *ours)[2]["external"] is False, "the driver lists ours a moment longer"
    gpu = said(runner)[2]
    assert (gpu["external"], gpu["processes"]) == (False, [])


def test_a_process_that_just_ended(runner: Runner) -> None:
    """The driver lists it a moment longer; what stays listed and can't be seen is somebody's."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    ghost = f"1 proc {process.pid} 100"
    seen = len(runner.host.heartbeats)
    assert said(runner, ghost)[1]["processes"]
    beats = [gpu for each in runner.host.heartbeats[seen:] if (gpu := each["usage"]["gpus"][1])["processes"]]
    assert beats[0]["external"] is False
    assert said(runner, ghost)[1]["external"] is True
    holder = runner.submit("sleep", "1000", gpu_uuids=[uuid(1)], gpus=[1])
    assert said(runner, ghost)[1]["external"] is False, "it may be the holder's, in a process namespace"
    runner.kill(holder)


@pytest.mark.docker
def test_a_process_in_our_container(runner: Runner, engine: docker.DockerClient, busybox: str) -> None:
    task = runner.submit("sleep", "1000", executor="docker", image=busybox, memory=2**26)
    runner.host.state(task, "running")
    try:
        label = f"hakuriver.runner={runner.host.registrations[-1]['runner']}"
        (container,) = engine.api.containers(filters={"label": label})
        pid = engine.api.inspect_container(container["Id"])["State"]["Pid"]
        gpu = said(runner, f"4 proc {pid} 9")[4]
        assert (gpu["processes"][0]["task"], gpu["processes"][0]["user"]) == (task, "root")
        assert gpu["external"] is True, "it was given none"
    finally:
        runner.kill(task, grace=0)


def test_heartbeats_go_on_while_the_driver_hangs(runner: Runner) -> None:
    fake_of(runner).say("hang 1")
    all_lost(runner, "doesn't answer")
    seen = len(runner.host.heartbeats)
    runner.host.wait(lambda: len(runner.host.heartbeats) > seen + 10, what="ten heartbeats")
    assert runner.run("true")["state"] == "completed"
    assert "gpu" in facts(runner)["unavailable"]
    all_back(runner)


def test_a_driver_library_that_crashes(runner: Runner) -> None:
    fake_of(runner).say("crash 1")
    all_lost(runner, "ended the process")
    all_back(runner)


def test_instances_of_a_gpu(runner: Runner) -> None:
    two = ("1 mig 2", "1.1 memused 100")
    gpus = said(runner, *two)
    assert len(gpus) == 10
    assert (gpus[9]["uuid"], gpus[9]["memory_used"], gpus[9]["utilization"]) == (
        uuid(1, 1),
        100 * 2**20,
        None,
    )
    runner.host.wait(lambda: len(facts(runner)["gpus"]) == 10, what="ten devices")
    shown = {gpu["index"]: (gpu["uuid"], gpu["mig"], gpu["parent"]) for gpu in facts(runner)["gpus"]}
    assert shown[0] == (uuid(0), False, None)
    assert shown[1] == (uuid(1), True, None)
    assert shown[200] == (uuid(1, 0), False, uuid(1))
    assert shown[201] == (uuid(1, 1), False, uuid(1))
    assert facts(runner)["gpus"][9]["memory"] == 10 * GIB
    gpus = said(runner, f"1 ret {driver.LOST}")
    assert lost(gpus) == dict.fromkeys((1, 8, 9), "GPU is lost"), "and its instances with it"
    assert len(said(runner)) == 8
    runner.host.wait(lambda: len(facts(runner)["gpus"]) == 8, what="a registration without instances")
    assert facts(runner)["gpus"][1]["mig"] is False


def test_a_driver_that_can_say_almost_nothing(fresh: Runner) -> None:
    """A board in a small computer: its memory is the machine's own. Then somebody plugs more in."""
    kinds = ("util", "mem", "temp", "power", "proc", "near", "pci", "mig")
    fake_of(fresh).say("count 1", *(f"0 nosupport {kind}" for kind in kinds))
    fresh.start()
    (gpu,) = facts(fresh)["gpus"]
    assert (gpu["uuid"], gpu["memory"], gpu["numa"], gpu["mig"]) == (uuid(0), 0, None, False)
    fresh.host.wait(lambda: fresh.host.heartbeats, what="a heartbeat")
    (use,) = fresh.host.heartbeats[0]["usage"]["gpus"]
    assert {use[key] for key in ("memory_used", "utilization", "temperature", "power", "lost")} == {None}
    assert (use["external"], use["processes"]) == (False, [])
    assert len(said(fresh, "count 3")) == 3
    fresh.host.wait(lambda: len(facts(fresh)["gpus"]) == 3, what="another registration")


def test_what_changed_is_told_until_the_host_has_it(runner: Runner) -> None:
    assert isinstance(runner.host, Busy)
    runner.host.refusals = 2
    said(runner, "1 mig 1")
    runner.host.wait(lambda: len(facts(runner)["gpus"]) == 9, what="the registration at last")
    assert runner.host.refusals == 0


def test_gpus_that_were_lost_from_the_start(fresh: Runner) -> None:
    sick = ("count 3", f"1 ret {driver.LOST}", f"2 sick {driver.LOST}")
    fake_of(fresh).say(*sick)
    fresh.start()
    assert [gpu["uuid"] for gpu in facts(fresh)["gpus"]] == [uuid(0), "unknown-1", uuid(2)]
    assert lost(said(fresh, *sick)) == {1: "GPU is lost", 2: "GPU is lost"}
    assert lost(said(fresh, "count 3")) == {}
    fresh.host.wait(lambda: facts(fresh)["gpus"][1]["uuid"] == uuid(1), what="its name")
    assert {gpu["memory"] for gpu in facts(fresh)["gpus"]} == {80 * GIB}


def test_a_driver_that_goes_and_comes_back(fresh: Runner) -> None:
    fake_of(fresh).say(f"init {driver.NOT_LOADED}")
    fresh.start()
    assert facts(fresh)["gpus"] == []
    assert facts(fresh)["unavailable"]["gpu"] == "the NVIDIA driver isn't loaded"
    all_back(fresh)
    assert len(facts(fresh)["gpus"]) == 8
    fake_of(fresh).say(*(f"{n} ret {driver.MISMATCH}" for n in range(8)), f"init {driver.MISMATCH}")
    all_lost(fresh, "the installed one")
    all_back(fresh)


def test_a_machine_without_any(tmp_path: Path) -> None:
    """Nothing is missing where there is no such hardware."""
    host = Host()
    runner = Runner(tmp_path / "state", host, environ={"LD_LIBRARY_PATH": str(tmp_path)})
    try:
        runner.start()
        assert facts(runner)["gpus"] == []
        assert "gpu" not in facts(runner)["unavailable"]
        assert facts(runner)["cpu"]["threads"] >= 1
        assert facts(runner)["numa"][0]["distances"][0] == 10
        host.wait(lambda: host.heartbeats, what="a heartbeat")
        assert host.heartbeats[0]["usage"]["gpus"] == []
    finally:
        runner.close()
        host.close()
