"""Real work in containers of a locally built image."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import docker
import pytest

from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.docker


@pytest.fixture(autouse=True)
def default_image(busybox: str) -> str:
    return busybox


@pytest.mark.parametrize(
    ("command", "state", "code"),
    [
        (["true"], "completed", 0),
        (["sh", "-c", "echo out; echo err >&2; exit 7"], "failed", 7),
        (["no-such-command"], "failed", 127),
        (["sh", "-c", "kill -KILL $$"], "failed", 137),
    ],
)
def test_how_a_container_ends(
    cluster: Cluster, busybox: str, command: list[str], state: str, code: int
) -> None:
    task = cluster.submit(*command, flags=["--image", busybox])
    (ended,) = cluster.wait(task)
    assert (ended["state"], ended["exit_code"], ended["executor"]) == (state, code, "docker"), ended


def test_whole_logs_binary_included(cluster: Cluster, busybox: str) -> None:
    data = cluster.layout.shared / "data.bin"
    data.write_bytes(random.Random(3).randbytes(10_000_000))
    task = cluster.submit(
        "sh", "-c", "cat /shared/data.bin; cat /shared/data.bin >&2", flags=["--image", busybox]
    )
    (ended,) = cluster.wait(task)
    assert ended["state"] == "completed"
    expected = hashlib.sha256(data.read_bytes()).hexdigest()
    assert hashlib.sha256(cluster.log(task)).hexdigest() == expected
    assert hashlib.sha256(cluster.log(task, "--stderr")).hexdigest() == expected


def test_environment_and_limits_inside(cluster: Cluster, busybox: str) -> None:
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    script = f"env; {limit}; df /dev/shm | tail -1"
    flags = ["--image", busybox, "--env", "GREETING=hello there", "--memory", "64MiB", "--cores", "0.5"]
    task = cluster.submit("sh", "-c", script, flags=flags)
    (ended,) = cluster.wait(task)
    assert ended["state"] == "completed"
    out = cluster.log(task).decode()
    for line in (
        f"HAKURIVER_TASK_ID={task}",
        "HAKURIVER_SHARED_DIR=/shared",
        "HAKURIVER_LOCAL_TEMP_DIR=/local_temp",
        "GREETING=hello there",
        str(64 * 2**20),
        "32768",
    ):
        assert line in out
    assert "HAKURIVER_TOKEN" not in out


def test_memory_over_the_limit_is_reported_as_such(cluster: Cluster, busybox: str) -> None:
    task = cluster.submit("sh", "-c", "exec tail /dev/zero", flags=["--image", busybox, "--memory", "32MiB"])
    (ended,) = cluster.wait(task)
    assert (ended["state"], ended["exit_code"]) == ("killed_oom", 137)


def test_kill_and_nothing_is_left_behind(cluster: Cluster, busybox: str, engine: docker.DockerClient) -> None:
    task = cluster.submit(
        "sh", "-c", "trap 'echo bye; exit 3' TERM; while :; do sleep 0.1; done", flags=["--image", busybox]
    )
    cluster.running(task)
    cluster.ok("task", "kill", str(task))
    (ended,) = cluster.wait(task)
    assert (ended["state"], ended["exit_code"]) == ("killed", 3)
    assert cluster.log(task) == b"bye\n"
    ours = [each.name for each in engine.containers.list(all=True) if f"-{task}-1" in (each.name or "")]
    assert ours == []


def test_a_mount_within_the_policy(own_cluster: Cluster, busybox: str, tmp_path: Path) -> None:
    own_cluster.down()
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("inside")
    (own_cluster.folder.parent / f"{own_cluster.folder.name}.toml").write_text(
        f"[policy]\nmount_roots = ['{tmp_path}']\n"
    )
    own_cluster.up()
    task = own_cluster.submit(
        "sh", "-c", "cat /data/file; touch /data/x", flags=["--image", busybox, "--mount", f"{data}:/data:ro"]
    )
    (ended,) = own_cluster.wait(task)
    assert ended["state"] == "failed"
    assert own_cluster.log(task) == b"inside"
    assert b"Read-only" in own_cluster.log(task, "--stderr")
