from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError

from daemons.runner.executors.kernel import killed_for_memory
from hakuriver.errors import Conflict, NotAllowed, UsageError
from tests import images
from tests.runner.peer import CLUSTER, Host, Runner, eventually

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def crew(
    engine: docker.DockerClient, busybox: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runner]:
    """A runner of this module that leaves no container behind."""
    yield from _crew(engine, tmp_path_factory.mktemp("docker"))


@pytest.fixture
def own_crew(engine: docker.DockerClient, busybox: str, tmp_path: Path) -> Iterator[Runner]:
    yield from _crew(engine, tmp_path)


def _crew(engine: docker.DockerClient, folder: Path) -> Iterator[Runner]:
    host = Host()
    roots = {"policy.mount_roots": (str(folder / "data"),)}
    # numbers of their own: container names on one engine must not meet
    first = int.from_bytes(os.urandom(4), "big") + 1
    runner = Runner(folder / "state", host, flags=roots, next_task=first).start()
    try:
        yield runner
    finally:
        runner.close()
        host.close()
        label = f"hakuriver.runner={host.registrations[-1]['runner']}"
        for each in engine.api.containers(all=True, filters={"label": label}):
            with contextlib.suppress(APIError):  # the engine may be removing it at this moment
                engine.api.remove_container(each["Id"], force=True)


def box(runner: Runner, *command: str, **facts: Any) -> int:
    return runner.submit(
        *command, **{"executor": "docker", "image": images.BUSYBOX, "memory": 64 * 2**20} | facts
    )


def name(task: int) -> str:
    return f"hakuriver-{CLUSTER[:8]}-{task}-1"


def exists(engine: docker.DockerClient, task: int) -> bool:
    return bool(engine.api.containers(all=True, filters={"name": name(task)}))


def facts(host: Host) -> dict[str, Any]:
    """What the runner said of its node last."""
    found: dict[str, Any] = host.registrations[-1]["facts"]
    return found


def test_the_engine_is_offered(crew: Runner) -> None:
    assert {"process", "docker"} <= set(facts(crew.host)["executors"])


def test_ends_and_logs(crew: Runner, engine: docker.DockerClient) -> None:
    tasks = {
        box(crew, "sh", "-c", "echo out; echo err >&2"): ("completed", 0),
        box(crew, "sh", "-c", "exit 7"): ("failed", 7),
        box(crew, "sh", "-c", "kill -KILL $$"): ("failed", 137),
        box(crew, "no-such-command"): ("failed", 127),
        box(crew, "/etc/passwd"): ("failed", 126),
    }
    for task, expected in tasks.items():
        end = crew.host.end(task)
        assert (end["state"], end["exit_code"]) == expected
        assert end["executor"] == "docker"
    first, *_, missing, _ = tasks
    assert crew.whole_log(first) == b"out\n"
    assert crew.whole_log(first, "stderr") == b"err\n"
    assert b"not found" in crew.whole_log(missing, "stderr")
    eventually(lambda: not any(exists(engine, task) for task in tasks), what="removing the containers")


def test_environment_limits_and_places(crew: Runner) -> None:
    script = "env; cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max; pwd"
    script += "; df /dev/shm | tail -1; echo s >/shared/s; echo t >/local_temp/t"
    task = box(crew, "sh", "-c", script, env={"A": "b c"}, workdir="/tmp", cores=0.5)
    assert crew.host.end(task)["state"] == "completed", crew.whole_log(task, "stderr")
    lines = crew.whole_log(task).decode().splitlines()
    assert {"A=b c", f"HAKURIVER_TASK_ID={task}", "HAKURIVER_SHARED_DIR=/shared"} < set(lines)
    assert "HAKURIVER_LOCAL_TEMP_DIR=/local_temp" in lines
    assert {str(64 * 2**20), "/tmp"} < set(lines)
    assert lines[-1].split()[1] == str(32 * 1024)
    assert (crew.layout.shared / "s").read_text() == "s\n"
    assert (crew.layout.temp / "t").read_text() == "t\n"


def test_a_private_network_has_nothing_but_lo(crew: Runner) -> None:
    devices = ["sh", "-c", "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"]
    alone = box(crew, *devices, private_network=True, private_pid=True)
    common = box(crew, *devices)
    assert (crew.host.end(alone)["exit_code"], crew.host.end(common)["exit_code"]) == (0, 0)
    assert crew.whole_log(alone) == b"lo\n"
    assert len(crew.whole_log(common).splitlines()) > 1


def test_over_memory(crew: Runner) -> None:
    end = crew.host.end(box(crew, "sh", "-c", "exec tail /dev/zero", memory=16 * 2**20))
    assert (end["state"], end["exit_code"], end["oom_events"]) == ("killed_oom", 137, 1)
    # the engine says OOMKilled, but the task itself went on and ended by itself
    end = crew.host.end(box(crew, "sh", "-c", "tail /dev/zero; exit 4", memory=16 * 2**20))
    assert (end["state"], end["exit_code"]) == ("failed", 4)


def test_the_kernel_knows_who_was_killed_for_memory(engine: docker.DockerClient, busybox: str) -> None:
    """Where the engine, under load, doesn't."""
    made = [
        engine.containers.create(
            busybox, ["sh", "-c", script], mem_limit=16 * 2**20, network_mode="none", init=True
        )
        for script in ("exec tail /dev/zero", "kill -9 $$")
    ]
    try:
        for each in made:
            each.start()
            assert each.wait(timeout=30)["StatusCode"] == 137
        assert [killed_for_memory(str(each.id)) for each in made] == [True, False]
        assert not killed_for_memory(str(made[0].id), Path("/no/such/log"))
    finally:
        for each in made:
            each.remove(force=True)


def test_hakurun_is_there_in_a_container_with_python(crew: Runner, engine: docker.DockerClient) -> None:
    image = images.python(engine)
    task = box(crew, "hakurun", "echo", "span:{1..3}", image=image)
    end = crew.host.end(task)
    assert (end["state"], end["exit_code"]) == ("completed", 0), crew.whole_log(task, "stderr")
    assert crew.whole_log(task) == b"1\n2\n3\n"


def test_a_missing_image_says_what_to_do(crew: Runner) -> None:
    end = crew.host.end(box(crew, "true", image="no/such:image"))
    assert end["state"] == "failed"
    assert "image no/such:image is not on node n1" in end["error"]
    assert "docker pull" in end["error"]


def test_a_bad_workdir_or_entry_is_the_engines_error(crew: Runner) -> None:
    end = crew.host.end(box(crew, "true", workdir="/etc/passwd/x"))
    assert end["state"] == "failed"
    assert end["error"].startswith(("the engine can't start it", "the engine refuses the container"))


def test_mounts_stay_within_the_policy(crew: Runner) -> None:
    data = crew.state.parent / "data"
    data.mkdir()
    (data / "file").write_text("inside")
    (data / "escape").symlink_to("/etc")
    mount = {"source": str(data), "target": "/data", "read_only": True}
    task = box(crew, "sh", "-c", "cat /data/file; touch /data/x", mounts=[mount])
    assert crew.host.end(task)["exit_code"] == 1
    assert crew.whole_log(task) == b"inside"
    with pytest.raises(NotAllowed):
        box(crew, "true", mounts=[mount | {"source": f"{data}/escape"}])
    with pytest.raises(NotAllowed):
        box(crew, "true", mounts=[mount | {"source": "/etc"}])
    with pytest.raises(UsageError, match="does not exist"):
        box(crew, "true", mounts=[mount | {"source": f"{data}/nothing"}])
    with pytest.raises(UsageError):
        box(crew, "true", mounts=[mount | {"target": "/.hakuriver/x"}])
    with pytest.raises(NotAllowed):
        box(crew, "true", privileged=True)


def test_kill_pause_resume_signal(crew: Runner) -> None:
    host = crew.host
    task = box(crew, "sh", "-c", "trap 'echo bye; exit 3' TERM; while :; do echo tick; sleep 0.05; done")
    eventually(lambda: crew.logs(task).data)
    crew.intend(task, "pause", 1)
    host.state(task, "paused")
    size = crew.logs(task).size
    time.sleep(0.3)  # long enough for six ticks
    assert crew.logs(task).size == size
    crew.intend(task, "run", 2)
    eventually(lambda: crew.logs(task).size > size)
    crew.intend(task, "pause", 3)
    host.wait(lambda: any(r["intent_version"] == 3 for r in host.of(task)))
    end = crew.kill(task, 4)
    assert (end["state"], end["exit_code"]) == ("killed", 3)
    assert crew.whole_log(task).endswith(b"bye\n")
    with pytest.raises(Conflict):
        crew.signal(task, signal.SIGUSR1)


def test_term_ignored_means_kill_after_grace_and_more_urgent_kills_are_heard(crew: Runner) -> None:
    task = box(crew, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    eventually(lambda: crew.logs(task).data)
    crew.intend(task, "kill", 1, grace=600)
    started = time.monotonic()
    end = crew.kill(task, 2, grace=0.5)
    assert time.monotonic() - started < 100  # not 600
    assert (end["state"], end["exit_code"]) == ("killed", 137)


def test_another_user_of_the_image_can_write_its_logs(crew: Runner, engine: docker.DockerClient) -> None:
    tag = "hakuriver-test/user:1"
    found = engine.containers.create(images.BUSYBOX, "true")
    found.commit("hakuriver-test/user", "1", conf={"User": "1000:1000"})
    found.remove()
    task = box(crew, "id", "-u", image=tag)
    assert crew.host.end(task)["state"] == "completed"
    assert crew.whole_log(task) == b"1000\n"


def test_an_image_without_a_shell_works_too(crew: Runner, engine: docker.DockerClient) -> None:
    tag = images.shellless(engine)
    task = box(crew, "sh", "-c", "echo out; echo err >&2; exit 9", image=tag)
    end = crew.host.end(task)
    assert (end["state"], end["exit_code"]) == ("failed", 9)
    assert crew.whole_log(task) == b"out\n"
    assert crew.whole_log(task, "stderr") == b"err\n"
    task = box(crew, "sh", "-c", "echo first; sleep 1000", image=tag)
    eventually(lambda: crew.logs(task).data == b"first\n", what="logs while it runs")
    assert crew.kill(task)["state"] == "killed"


def test_a_crash_of_the_runner_changes_nothing(own_crew: Runner, engine: docker.DockerClient) -> None:
    running = box(own_crew, "sh", "-c", "echo a; sleep 3; echo b; exit 6")
    ending = box(own_crew, "sh", "-c", "sleep 1; exit 5")
    eventually(lambda: own_crew.logs(running).data)
    own_crew.host.state(ending, "running")
    own_crew.crash()
    eventually(lambda: engine.containers.get(name(ending)).status == "exited")
    own_crew.start()
    assert own_crew.host.end(ending)["exit_code"] == 5
    assert own_crew.host.end(running)["exit_code"] == 6
    assert own_crew.whole_log(running) == b"a\nb\n"
    starts = [r for r in own_crew.host.of(running) if r["state"] == "running"]
    assert len(starts) == 1


def test_crashes_during_the_start_never_start_twice(own_crew: Runner, engine: docker.DockerClient) -> None:
    """Every order either runs exactly once or is given back as never run, wherever the runner dies."""
    for delay in (0.0, 0.05, 0.1, 0.2, 0.3):
        task = box(own_crew, "sh", "-c", "echo x >>/shared/runs-$HAKURIVER_TASK_ID")
        time.sleep(delay)
        own_crew.crash()
        own_crew.start()
        end = own_crew.host.end(task, timeout=40)
        runs = own_crew.layout.shared / f"runs-{task}"
        count = len(runs.read_text().split()) if runs.exists() else 0
        assert (end["state"], count) in (("completed", 1), ("pending", 0))


def test_a_container_that_somebody_removed_is_lost(crew: Runner, engine: docker.DockerClient) -> None:
    task = box(crew, "sleep", "1000")
    crew.host.state(task, "running")
    engine.containers.get(name(task)).remove(force=True)
    end = crew.host.end(task)
    # the engine may still tell how it ended before it is gone
    assert (end["state"], end["exit_code"]) in (("lost", None), ("failed", 137))


def test_without_an_engine_the_reason_is_told(tmp_path: Path) -> None:
    host = Host()
    runner = Runner(tmp_path / "s", host, environ={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}).start()
    try:
        assert "docker" not in facts(host)["executors"]
        assert facts(host)["unavailable"]["docker"] == "no Docker engine runs here"
        task = runner.submit("true", executor="docker", image=images.BUSYBOX)
        assert host.state(task, "preparing")["reason"] == "no Docker engine runs here"
        end = runner.kill(task)
        assert (end["state"], end["reason"]) == ("killed", "killed by bob before it started")
    finally:
        runner.close()
        host.close()


class Door:
    """A way to the real engine that can be shut, as if the engine were away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: list[socket.socket] = []
        self._listening: socket.socket | None = None

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.path))
        self._listening.listen(64)
        threading.Thread(target=self._serve, args=(self._listening,), daemon=True).start()

    def shut(self) -> None:
        assert self._listening is not None
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.path.unlink()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect("/var/run/docker.sock")
            self._open += [client, engine]
            for source, target in ((client, engine), (engine, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_an_engine_that_goes_away_and_returns(
    tmp_path: Path, engine: docker.DockerClient, busybox: str
) -> None:
    door, host = Door(tmp_path / "engine.sock"), Host()
    door.open()
    environ = {"DOCKER_HOST": f"unix://{door.path}"}
    runner = Runner(tmp_path / "state", host, environ=environ, next_task=int(time.time()) * 10).start()
    try:
        gate = runner.layout.shared / "gate"
        task = box(runner, "sh", "-c", "until [ -e /shared/gate ]; do sleep 0.1; done; echo through; exit 8")
        host.state(task, "running")
        door.shut()
        host.wait(
            lambda: "docker" in host.registrations[-1]["facts"]["unavailable"], what="the engine's absence"
        )
        late = box(runner, "echo", "late")
        assert host.state(late, "preparing")["reason"]
        gate.touch()
        eventually(lambda: engine.containers.get(name(task)).status == "exited")
        door.open()
        host.wait(
            lambda: "docker" in host.registrations[-1]["facts"]["executors"], what="the engine's return"
        )
        assert host.end(task)["exit_code"] == 8
        assert runner.whole_log(task) == b"through\n"
        assert host.end(late)["state"] == "completed"
        eventually(
            lambda: not exists(engine, task) and not exists(engine, late), what="removing the containers"
        )
    finally:
        runner.close()
        host.close()
        for each in engine.containers.list(all=True, filters={"name": f"hakuriver-{CLUSTER[:8]}-"}):
            if (each.name or "").split("-")[2] in (str(task), str(late)):
                each.remove(force=True)
