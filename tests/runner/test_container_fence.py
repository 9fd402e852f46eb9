"""Fenced containers end when their node hears nothing of the host: whoever is dead, frozen or in between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError

from daemons.runner.shim.container import members
from daemons.runner.shim.fence import ORDER, RECORD
from daemons.runner.shim.proc import process
from daemons.runner.shim.sockets import at
from daemons.runner.shim.status import read_status
from hakuriver.errors import CannotFit
from tests import images
from tests.runner.engines import OwnEngine
from tests.runner.peer import Host, Runner, eventually
from tests.runner.test_docker import box, name
from tests.runner.test_survival import forkserver

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root's runner can fence containers"),
]
LEASE = 2.0
POWERLESS = ("setpriv", "--inh-caps", "-kill", "--bounding-set", "-kill")
BLIND = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
LOOP = "while :; do echo tick; sleep 0.05; done"


@contextmanager
def crew_on(
    client: docker.DockerClient, folder: Path, url: str | None = None, prefix: tuple[str, ...] = ()
) -> Iterator[Runner]:
    """A runner on an engine, whose host grants short leases; none of its fences outlives it."""
    host = Host()
    host.lease = LEASE
    first = int.from_bytes(os.urandom(4), "big") + 1
    environ = {} if url is None else {"DOCKER_HOST": url}
    state = folder / "state"
    runner = Runner(state, host, environ=environ, prefix=list(prefix), next_task=first).start()
    try:
        yield runner
    finally:
        runner.close()
        host.close()
        with contextlib.suppress(ValueError):
            os.kill(forkserver(runner), signal.SIGKILL)
        for each in runner.layout.attempts.iterdir():
            if pid := listener(each):
                os.kill(pid, signal.SIGKILL)
        label = f"hakuriver.runner={host.registrations[-1]['runner']}"
        for container in client.api.containers(all=True, filters={"label": label}):
            with contextlib.suppress(APIError):  # the engine may be removing it at this moment
                client.api.remove_container(container["Id"], force=True)


@pytest.fixture
def crew(engine: docker.DockerClient, busybox: str, tmp_path: Path) -> Iterator[Runner]:
    with crew_on(engine, tmp_path) as runner:
        yield runner


@pytest.fixture(scope="module")
def own() -> Iterator[OwnEngine]:
    """An engine that may be frozen and killed, whose containers live on."""
    found = OwnEngine("--live-restore").start()
    try:
        images.busybox(found.client)
        yield found
    finally:
        found.send(signal.SIGCONT)
        found.wipe()


@pytest.fixture
def own_crew(own: OwnEngine, tmp_path: Path) -> Iterator[Runner]:
    with crew_on(own.client, tmp_path, own.url) as runner:
        try:
            yield runner
        finally:
            own.send(signal.SIGCONT)


def listed(host: Host, task: int) -> bool:
    """Whether the last heartbeat names the fence of a task."""
    return bool(host.heartbeats) and [task, 1] in host.heartbeats[-1]["fences"]


def fenced(runner: Runner, script: str = LOOP, **given: Any) -> int:
    """A fenced container."""
    return box(runner, "sh", "-c", script, fenced=True, **given)


def standing(runner: Runner, *tasks: int) -> None:
    """Wait until tasks run and their fences were heard of."""
    for task in tasks:
        runner.host.state(task, "running")
        runner.host.wait(lambda task=task: listed(runner.host, task), what="the fence in a heartbeat")  # type: ignore[misc]


def record(runner: Runner, task: int) -> dict[str, Any]:
    """What its fence did."""
    folder = os.open(runner.folder(task), os.O_RDONLY)
    try:
        return read_status(folder, RECORD) or {}
    finally:
        os.close(folder)


def ordered(runner: Runner, task: int) -> str:
    """The id of the container that the fence is for."""
    return str(json.loads((runner.folder(task) / ORDER).read_text())["container"])


def fence_of(runner: Runner, task: int) -> int:
    """The process of a task's fence; 0 when there is none."""
    return listener(runner.folder(task))


def listener(attempt: Path) -> int:
    """The process that listens on an attempt's control socket; 0 when nobody does."""
    folder = os.open(attempt, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(at(folder, "control"))
            pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return int(pid)
    except OSError:
        return 0
    finally:
        os.close(folder)


def dead(container: str, timeout: float = 40) -> None:
    eventually(lambda: not list(members(container)), timeout, what="the end of its processes")


def told_as_fenced(runner: Runner, task: int) -> None:
    end = runner.host.end(task, timeout=30)
    assert (end["state"], end["exit_code"], end["signal"]) == ("lost", None, None)
    assert end["reason"].startswith("fenced: no lease for ")
    eventually(lambda: not (runner.folder(task) / "control").exists(), what="the end of the fence")


def test_it_ends_whatever_lives_when_the_lease_is_over(crew: Runner, engine: docker.DockerClient) -> None:
    """Also what ignores TERM and hides, and what has no shell to take a claim."""
    stubborn = fenced(crew, f"trap '' TERM; setsid sh -c 'sleep 1000' & {LOOP}")
    shellless = fenced(crew, image=images.shellless(engine))
    kept = box(crew, "sh", "-c", LOOP)
    gate = "until [ -e /shared/gate ]; do sleep 0.05; done"
    ended, died = fenced(crew, f"{gate}; exit 3"), fenced(crew, f"{gate}; kill -9 $$")
    standing(crew, stubborn, shellless, ended, died)
    crew.host.state(kept, "running")
    time.sleep(LEASE)  # the lease is renewed meanwhile, or this would be their end
    lost = {task: ordered(crew, task) for task in (stubborn, shellless)}
    assert all(list(members(each)) for each in lost.values())
    crew.host.down = True
    since = time.monotonic()
    (crew.layout.shared / "gate").touch()
    for container in lost.values():
        dead(container)
    assert LEASE - 0.5 < time.monotonic() - since < LEASE + 10
    assert list(members(engine.containers.get(name(kept)).id or ""))
    crew.host.down = False
    for task in lost:
        told_as_fenced(crew, task)
    for task, code in ((ended, 3), (died, 137)):
        end = crew.host.end(task)
        assert (end["state"], end["exit_code"]) == ("failed", code)
    assert b"tick" in crew.whole_log(shellless)
    assert crew.kill(kept)["state"] == "killed"


def test_whoever_is_killed_the_fence_holds(crew: Runner) -> None:
    task = fenced(crew)
    standing(crew, task)
    first = fence_of(crew, task)
    os.kill(first, signal.SIGKILL)
    second = eventually(lambda: fence_of(crew, task) not in (0, first) and fence_of(crew, task))
    count = len(crew.host.heartbeats)
    crew.host.wait(lambda: len(crew.host.heartbeats) > count and listed(crew.host, task))
    os.kill(forkserver(crew), signal.SIGKILL)
    os.kill(second, signal.SIGKILL)  # who would have replaced it is dead: the runner sees to it
    third = eventually(lambda: fence_of(crew, task) not in (0, second) and fence_of(crew, task))
    crew.host.wait(lambda: listed(crew.host, task), what="its return to heartbeats")
    container = ordered(crew, task)
    crew.crash()
    os.kill(third, signal.SIGKILL)  # who would have noticed is dead: the fork server does
    eventually(lambda: fence_of(crew, task) not in (0, third), what="another fence")
    dead(container)
    crew.start()
    told_as_fenced(crew, task)


def test_a_frozen_fence_is_not_told_to_live_and_ends_with_its_attempt(crew: Runner) -> None:
    task = fenced(crew)
    standing(crew, task)
    fence = fence_of(crew, task)
    os.kill(fence, signal.SIGSTOP)
    crew.host.wait(lambda: not listed(crew.host, task), what="its absence from heartbeats")
    assert [task, 1] in crew.host.heartbeats[-1]["attempts"]
    os.kill(fence, signal.SIGCONT)
    crew.host.wait(lambda: listed(crew.host, task), what="its return")
    assert crew.kill(task, grace=0)["state"] == "killed"
    eventually(lambda: process(fence) is None, what="the end of the fence")
    assert not (crew.folder(task) / ORDER).exists()
    assert not record(crew, task)["killed"]


def test_a_frozen_engine_and_a_dead_runner_save_nobody(own: OwnEngine, own_crew: Runner) -> None:
    tasks = running, paused = fenced(own_crew), fenced(own_crew)
    standing(own_crew, *tasks)
    own_crew.intend(paused, "pause")
    own_crew.host.state(paused, "paused")
    containers = [ordered(own_crew, each) for each in tasks]
    own.send(signal.SIGSTOP)
    own_crew.crash()
    for each in containers:
        dead(each)
    own.send(signal.SIGCONT)
    own_crew.start()
    told_as_fenced(own_crew, running)
    told_as_fenced(own_crew, paused)


def test_an_engine_that_was_killed_saves_nobody(own: OwnEngine, own_crew: Runner) -> None:
    task = fenced(own_crew)
    standing(own_crew, task)
    container = ordered(own_crew, task)
    own.stop(signal.SIGKILL)
    try:
        own_crew.host.down = True
        dead(container)
        own_crew.host.down = False
        told_as_fenced(own_crew, task)  # what the fence saw needs no engine
    finally:
        own.start()
    eventually(lambda: not own.client.api.containers(all=True, filters={"name": name(task)}), what="cleaning")


class Door:
    """A way to an engine that freezes it the moment it is told to start a container."""

    def __init__(self, engine: OwnEngine, path: Path) -> None:
        self.frozen = threading.Event()
        self._engine = engine
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(self._engine.url.removeprefix("unix://"))
            for source, target in ((client, engine), (engine, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if b"/start HTTP" in data:
                    self._engine.send(signal.SIGSTOP)
                    self.frozen.set()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_a_start_that_is_on_its_way_comes_too_late(own: OwnEngine, tmp_path: Path) -> None:
    door = Door(own, tmp_path / "s")
    with crew_on(own.client, tmp_path, f"unix://{tmp_path}/s") as crew:
        try:
            task = fenced(crew, "echo ran >/shared/ran")
            assert door.frozen.wait(20)
            crew.crash()
            eventually(lambda: record(crew, task)["dead"], what="the fence")
            assert not record(crew, task)["killed"]
            own.send(signal.SIGCONT)
            api = own.client.api
            eventually(
                lambda: api.inspect_container(name(task))["State"]["ExitCode"] == 125, what="its start"
            )
            crew.start()
            end = crew.host.end(task)
        finally:
            own.send(signal.SIGCONT)
            door.close()
        assert end["state"] == "pending"
        assert end["reason"].startswith("fenced before it started: no lease for ")
        assert not (crew.layout.shared / "ran").exists()


def test_nothing_fenced_starts_without_a_lease_or_a_fence(crew: Runner) -> None:
    crew.host.down = True
    time.sleep(LEASE + 0.3)  # the lease of the last heartbeat is over
    spec = crew.spec("true", executor="docker", image=images.BUSYBOX, memory=2**26, fenced=True)
    crew.put(spec)
    eventually(lambda: "waits for the host to acknowledge" in crew.log, what="waiting")
    (crew.folder(spec.task) / RECORD).mkdir(parents=True)  # where the fence would write
    crew.host.down = False
    crew.host.wait(
        lambda: any("its fence doesn't stand" in r["reason"] for r in crew.host.of(spec.task)), what="waiting"
    )
    (crew.folder(spec.task) / RECORD).rmdir()
    assert crew.host.end(spec.task)["state"] == "completed"


def test_a_fence_that_sees_nothing_is_not_told_to_live(
    engine: docker.DockerClient, busybox: str, tmp_path: Path
) -> None:
    """As where the runner itself runs in a container: what can be done without any promise is done."""
    with crew_on(engine, tmp_path, prefix=BLIND) as crew:
        task = fenced(crew)
        crew.host.state(task, "running")
        count = len(crew.host.heartbeats)
        crew.host.wait(lambda: len(crew.host.heartbeats) > count + 3, what="heartbeats")
        assert not any([task, 1] in each["fences"] for each in crew.host.heartbeats)
        container = ordered(crew, task)
        crew.host.down = True
        dead(container)
        crew.host.down = False
        told_as_fenced(crew, task)


@pytest.mark.parametrize("without", ["root", "a local engine"])
def test_what_cannot_be_fenced_is_refused(tmp_path: Path, without: str) -> None:
    host = Host()
    runner = Runner(
        tmp_path / "state",
        host,
        prefix=list(POWERLESS) if without == "root" else [],
        environ={} if without == "root" else {"DOCKER_HOST": "tcp://127.0.0.1:1"},
    )
    try:
        runner.start()
        with pytest.raises(CannotFit, match="can't fence containers") as caught:
            fenced(runner)
        assert caught.value.instance_code == "no_fence"
    finally:
        runner.close()
        host.close()
