"""The fence of a container by itself: without a runner, mostly without an engine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from daemons.runner.forkserver import command
from daemons.runner.shim.container import kill_by_engine
from daemons.runner.shim.fence import ORDER, RECORD
from daemons.runner.shim.lease import encode_lease
from daemons.runner.shim.proc import boot_id, boottime
from daemons.runner.shim.status import read_status
from tests.runner.peer import eventually
from tests.runner.test_container_fence import POWERLESS, listener
from tests.runner.test_shim import OURS, SLOW, imported, lines_from

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="groups, mounts and namespaces need root")


@contextmanager
def fence_alone(
    folder: Path, container: str, *, engine: str = "", prefix: tuple[str, ...] = (), lease: float = 0.5
) -> Iterator[tuple[Path, Path, Iterator[dict[str, Any]], socket.socket]]:
    """A fence for a container of anybody whose claim is taken: its attempt, the fork server's log, what it
    says, and a way to ask."""
    attempt, log = folder / "attempts" / "1.1", folder / "log"
    (attempt / "io").mkdir(parents=True)
    folder.chmod(0o700)
    (attempt / "io" / "claim").touch()
    order = {"container": container, "wrapped": True, "engine": engine}
    (attempt / ORDER).write_text(json.dumps(order))
    (folder / "lease").write_bytes(encode_lease(boottime() + lease, boot_id()))
    python, *rest = command(folder)
    with log.open("wb") as output:
        process = subprocess.Popen([*prefix, python, "-X", "importtime", *rest], stderr=output, env={})
    eventually(lambda: list(folder.glob("forkserver-*.sock")), what="the fork server")
    with lines_from(folder) as (client, lines):
        hello = next(lines)
        try:
            client.sendall(b'{"op": "fence", "name": "1.1"}\n')
            yield attempt, log, lines, client
        finally:
            (attempt / ORDER).unlink()
            os.kill(hello["pid"], signal.SIGKILL)
            process.kill()
            process.wait(5)


def record_of(attempt: Path) -> dict[str, Any]:
    folder = os.open(attempt, os.O_RDONLY)
    try:
        return read_status(folder, RECORD) or {}
    finally:
        os.close(folder)


def test_it_holds_nothing_but_the_standard_library_and_itself(tmp_path: Path) -> None:
    with fence_alone(tmp_path, "0" * 64) as (attempt, log, lines, _):
        assert next(lines) == {"container": "0" * 64, "fenced": False, "reaches": False}
        early = imported(log.read_text())
        eventually(lambda: record_of(attempt)["no_lease_for"], what="the fence")
        modules = imported(log.read_text())
    assert modules == early
    strangers = {each for each in modules if each.partition(".")[0] not in sys.stdlib_module_names}
    assert [each for each in strangers if each not in OURS and not each.startswith(f"{OURS[-1]}.")] == []
    assert SLOW & set(modules) == set()


@contextmanager
def sleepers() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A frozen group of version 2 with processes in it and below, like those that an engine with the systemd
    driver makes; the id of the container that it could be."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    root = next(Path(line[1]) for line in mounts if line[2] == "cgroup2")
    container = os.urandom(32).hex()
    group = root / f"docker-{container}.scope"
    places = (group, group / "below")
    found: list[subprocess.Popen[bytes]] = []
    try:
        for place in places:
            place.mkdir()
            found.append(subprocess.Popen(["sleep", "1000"]))
            (place / "cgroup.procs").write_text(str(found[-1].pid))
        (group / "cgroup.freeze").write_text("1")
        yield container, found
    finally:
        for each in found:
            each.kill()
            each.wait(5)
        for place in reversed(places):
            place.rmdir()


def test_groups_of_version_2_are_ended(tmp_path: Path) -> None:
    with sleepers() as (container, found), fence_alone(tmp_path, container) as (attempt, _, lines, _):
        assert next(lines)["reaches"] is True
        for each in found:
            assert each.wait(20) == -signal.SIGKILL
        eventually(lambda: record_of(attempt)["dead"], what="the end of its work")
        assert record_of(attempt)["killed"]


def test_on_a_full_disk_no_fence_is_raised_but_a_killed_one_is_replaced(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M,nr_inodes=40", "tmpfs", str(disk)], check=True)
    try:
        with (
            sleepers() as (container, found),
            fence_alone(disk, container, lease=2) as (attempt, _, lines, _),
        ):
            assert next(lines)["reaches"] is True
            shutil.copytree(attempt, attempt.with_name("2.1"), ignore=lambda *_: ["control", RECORD])
            with contextlib.suppress(OSError):
                for number in range(100):
                    (disk / f"hog{number}").touch()
            with lines_from(disk) as (client, other):
                next(other)
                client.sendall(b'{"op": "fence", "name": "2.1"}\n')
                assert "No space left" in next(other)["refused"]
            os.kill(listener(attempt), signal.SIGKILL)
            for each in found:
                assert each.wait(20) == -signal.SIGKILL
            eventually(lambda: record_of(attempt)["dead"], what="the end of its work")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.docker
def test_what_it_cannot_kill_itself_the_engine_kills(
    engine: docker.DockerClient, busybox: str, tmp_path: Path
) -> None:
    container = engine.containers.run(busybox, "sleep 1000", detach=True, mem_limit="64m", user="1000")
    try:
        container.pause()
        assert kill_by_engine(str(tmp_path / "nothing"), container.id or "") is None
        given = fence_alone(tmp_path, container.id or "", engine="/var/run/docker.sock", prefix=POWERLESS)
        with given as (attempt, _, lines, _):
            assert next(lines)["reaches"] is False
            eventually(lambda: record_of(attempt)["dead"], what="the end of its work")
            assert record_of(attempt)["killed"]
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 137
        assert kill_by_engine("/var/run/docker.sock", container.id or "") == 409
    finally:
        container.remove(force=True)
    assert kill_by_engine("/var/run/docker.sock", container.id or "") == 404


def test_it_follows_its_order_and_ends_with_it(tmp_path: Path) -> None:
    with fence_alone(tmp_path, "0" * 64, lease=60) as (attempt, _, lines, client):
        assert next(lines)["container"] == "0" * 64
        order = {"container": "1" * 64, "wrapped": True, "engine": ""}
        (attempt / "new").write_text(json.dumps(order))
        (attempt / "new").replace(attempt / ORDER)
        client.sendall(b'{"op": "fence"}\n')
        assert next(lines)["container"] == "1" * 64
        (attempt / ORDER).write_text("{")  # what can't be read changes nothing
        client.sendall(b'{"op": "fence"}\n')
        assert next(lines)["container"] == "1" * 64
        (attempt / ORDER).unlink()
        assert next(lines, None) is None
        (attempt / ORDER).touch()
    assert not record_of(attempt)["no_lease_for"]
