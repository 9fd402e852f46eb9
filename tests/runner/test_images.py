"""What an attempt runs in is brought to its node once, whole or not at all."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import ImageNotFound

from hakuriver.api import Client
from hakuriver.environments import image_tag
from hakuriver.errors import HakuRiverError
from hakuriver.paths import runner_path
from tests import images
from tests.runner.engines import OwnEngine
from tests.runner.peer import Runner, eventually
from tests.runner.tarballs import TarballHost, Version

pytestmark = pytest.mark.docker
_numbers = count(1_700_000_000)
MIB = 2**20


class Lab:
    """A node with an engine of its own, and a host that has tarballs."""

    def __init__(self, folder: Path, node: OwnEngine, keep: int) -> None:
        self.node = node
        self.host = TarballHost()
        flags = {"docker.keep_versions": keep}
        self.runner = Runner(folder / "state", self.host, flags, environ={"DOCKER_HOST": node.url})

    @property
    def shared(self) -> Path:
        return self.runner.layout.shared / "hakuriver-containers"

    @property
    def partials(self) -> list[Path]:
        return list((self.runner.layout.runner / "images").glob("*.part"))

    def submit(self, version: Version, *command: str, pinned: bool = False) -> int:
        return self.runner.submit(*(command or ("cat", "/marker")), **version.order(pinned=pinned))

    def has(self, name: str) -> str | None:
        """The id of an image of the node."""
        try:
            return str(self.node.client.images.get(name).id)
        except ImageNotFound:
            return None

    def loads(self, version: Version) -> int:
        """How often the engine has loaded it."""
        api: Any = self.node.client.api  # its published types know no fractions of a second
        told = api.events(since=0, until=str(time.time()), decode=True, filters={"event": "load"})
        return [each["Actor"]["ID"] for each in told].count(version.ref.image)

    def texts(self, task: int) -> list[str]:
        """What an attempt said while it waited."""
        return [r["reason"] for r in self.host.of(task) if r["state"] == "preparing"]

    def loading(self) -> bool:
        """Whether the engine is receiving an image now."""
        return any((self.node.folder / "data/tmp").glob("docker-import-*/*"))


@contextmanager
def lab(folder: Path, *, disk: str = "", keep: int = 3) -> Iterator[Lab]:
    """``disk``: how much of one the engine has; ``keep``: versions that stay without being used."""
    if os.geteuid() != 0:
        pytest.skip("an engine needs root")
    node = OwnEngine()
    made = Lab(folder, node, keep)
    try:
        if disk:
            data = node.folder / "data"
            data.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk}", "tmpfs", data], check=True)
        node.start()
        made.runner.start()
        yield made
    finally:
        made.host.go.set()
        made.runner.close()
        made.host.close()
        node.wipe()


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """For tests that neither break it nor mind what else is loaded there."""
    with lab(tmp_path_factory.mktemp("images"), keep=2) as made:
        made.shared.mkdir(parents=True)
        yield made


@pytest.fixture(scope="module")
def _remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("remote")) as made:
        yield made


@pytest.fixture
def remote(_remote: Lab) -> Iterator[Lab]:
    """A node without shared storage."""
    yield _remote
    _remote.host.cut = _remote.host.hold = None
    _remote.host.away = False
    _remote.host.go.clear()


def packed(engine: docker.DockerClient, name: str, marker: str = "x", ballast: bytes = b"") -> Version:
    return Version(engine, name, next(_numbers), marker, ballast)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_many_wait_and_it_is_loaded_once(common: Lab, engine: docker.DockerClient) -> None:
    version = packed(engine, "once", "hello")
    version.share(common.shared)
    tasks = [common.submit(version) for _ in range(8)]
    ends = [common.host.end(task) for task in tasks]
    assert [end["state"] for end in ends] == ["completed"] * 8, ends[0]
    assert {end["image"] for end in ends} == {version.ref.image}
    assert common.runner.whole_log(tasks[0]) == b"hello"
    assert common.loads(version) == 1
    assert common.host.starts(version) == []
    assert common.has(image_tag("once", version.ref.version)) == version.ref.image
    assert common.has(image_tag("once")) == version.ref.image
    assert common.texts(tasks[0])


def test_shared_files_that_are_not_right(common: Lab, engine: docker.DockerClient) -> None:
    """They are fetched from the host; where that is wrong, too, the version before still works."""
    host = common.host
    good = packed(engine, "both", "good")
    bad, short, flipped, missing = (packed(engine, name, name) for name in ("both", "short", "flip", "miss"))
    middle = flipped.ref.size // 2
    good.share(common.shared)
    path = bad.share(common.shared, bad.data[:-1] + b"!")
    short.share(common.shared, short.data[:middle])
    harmed = flipped.data[:middle] + bytes([flipped.data[middle] ^ 1]) + flipped.data[middle + 1 :]
    flipped.share(common.shared, harmed)
    for each in (short, flipped, missing):
        host.offer(each)
    host.offer(bad, b"!" + bad.data[1:])
    failing, *tasks = [common.submit(each) for each in (bad, short, flipped, missing)]
    assert host.end(common.submit(good))["state"] == "completed"
    for task, version in zip(tasks, (short, flipped, missing), strict=True):
        assert host.end(task)["state"] == "completed"
        assert common.runner.whole_log(task) == version.ref.name.encode()
        assert host.starts(version) == [0]
    end = host.end(failing)
    assert end["state"] == "failed"
    for part in (f"both@{bad.ref.version}", str(path), "is damaged", bad.ref.sha256, "env rollback both"):
        assert part in end["error"]
    assert host.starts(bad) == [0]  # not a loop
    again = common.submit(good)
    assert host.end(again)["state"] == "completed"
    assert common.runner.whole_log(again) == b"good"
    assert common.partials == []


def test_a_cut_fetch_goes_on_where_it_was(remote: Lab, engine: docker.DockerClient) -> None:
    version = packed(engine, "cut", ballast=noise(MIB))
    remote.host.offer(version)
    remote.host.cut = MIB
    assert remote.host.end(remote.submit(version))["state"] == "completed"
    assert remote.host.starts(version) == list(range(0, version.ref.size, MIB))


def test_a_kill_ends_one_that_waits_and_not_the_load(remote: Lab, engine: docker.DockerClient) -> None:
    version = packed(engine, "kill", ballast=noise(MIB))
    remote.host.offer(version)
    remote.host.hold = MIB
    first, second = remote.submit(version), remote.submit(version)
    remote.host.wait(lambda: remote.host.starts(version))
    assert remote.runner.kill(first)["state"] == "killed"
    assert not any(r["state"] == "killed" for r in remote.host.of(second))
    remote.host.go.set()
    assert remote.host.end(second)["state"] == "completed"
    assert remote.host.starts(version) == [0]


def test_a_load_for_nobody_is_given_up_and_goes_on_later(remote: Lab, engine: docker.DockerClient) -> None:
    version = packed(engine, "nobody", ballast=noise(4 * MIB))
    remote.host.offer(version)
    remote.host.hold = MIB
    task = remote.submit(version)
    eventually(lambda: [each for each in remote.partials if each.stat().st_size == MIB], what="a part of it")
    assert remote.runner.kill(task)["state"] == "killed"
    remote.host.hold = None
    remote.host.go.set()
    assert remote.host.end(remote.submit(version))["state"] == "completed"
    assert remote.host.starts(version)[0] == 0
    assert MIB <= remote.host.starts(version)[1] < version.ref.size


def test_a_host_that_is_away_is_waited_for(remote: Lab, engine: docker.DockerClient) -> None:
    version = packed(engine, "away")
    remote.host.offer(version)
    remote.host.away = True
    task = remote.submit(version)
    remote.host.wait(lambda: any("can't be fetched: " in text for text in remote.texts(task)))
    remote.host.away = False
    assert remote.host.end(task)["state"] == "completed"


def test_old_versions_go_when_nobody_uses_them(common: Lab, engine: docker.DockerClient) -> None:
    versions = [packed(engine, "old", str(number)) for number in range(4)]
    for each in versions:
        each.share(common.shared)
    foreign = packed(engine, "old", "foreign")
    common.node.client.images.load(foreign.data)
    assert common.host.end(common.submit(foreign))["state"] == "completed"
    running = common.submit(versions[0], "sleep", "600", pinned=True)
    common.host.state(running, "running")
    assert common.has(image_tag("old")) is None  # pinned, so it isn't the current one
    for each in versions[1:]:
        assert common.host.end(common.submit(each))["state"] == "completed"
    eventually(lambda: common.has(versions[1].ref.image) is None, what="the end of an old version")
    kept = {each.ref.image for each in (versions[0], *versions[2:], foreign)}
    assert {common.has(image) for image in kept} == kept
    assert common.has(image_tag("old")) == versions[3].ref.image
    common.runner.kill(running, grace=0)
    last = packed(engine, "old", "last")
    last.share(common.shared)
    assert common.host.end(common.submit(last))["state"] == "completed"
    eventually(lambda: common.has(versions[0].ref.image) is None, what="the end of what ran")
    assert common.has(foreign.ref.image) == foreign.ref.image  # not ours


def test_prefetch_says_how_far_it_is(common: Lab, engine: docker.DockerClient) -> None:
    version = packed(engine, "prefetch")
    version.share(common.shared)
    lines = prefetch(common.runner.client, version)
    assert lines[-1] == {"type": "done"}
    assert all(each["work"]["kind"] == "load" for each in lines[:-1])
    assert common.has(image_tag("prefetch", version.ref.version)) == version.ref.image
    assert common.has(image_tag("prefetch")) is None
    assert prefetch(common.runner.client, version)[-1] == {"type": "done"}
    with pytest.raises(HakuRiverError):
        common.runner.client.request("POST", runner_path("prefetch"), body={"name": "../x"})


def test_a_version_that_the_host_has_no_more(remote: Lab, engine: docker.DockerClient) -> None:
    version = packed(engine, "gone")
    last = prefetch(remote.runner.client, version)[-1]
    assert (last["type"], "HTTP 404" in last["error"]["message"]) == ("error", True)
    assert remote.host.end(remote.submit(version))["state"] == "failed"


def prefetch(client: Client, version: Version) -> list[dict[str, Any]]:
    with client.open("POST", runner_path("prefetch"), body=version.ref.model_dump(), timeout=40) as answer:
        return [json.loads(line) for line in answer.read().splitlines()]


def test_an_order_of_an_older_host_runs_what_has_the_name(common: Lab, engine: docker.DockerClient) -> None:
    plain = {"executor": "docker", "container": "elder", "image": image_tag("elder"), "memory": 2**26}
    end = common.host.end(common.runner.submit("true", **plain))
    assert (end["state"], "image hakuriver/elder:base is not on node n1" in end["error"]) == ("failed", True)
    images.busybox(common.node.client)
    common.node.client.api.tag(images.BUSYBOX, "hakuriver/elder", "base")
    assert common.host.end(common.runner.submit("true", **plain))["state"] == "completed"


def test_no_room_is_said_at_once(tmp_path: Path, engine: docker.DockerClient) -> None:
    version = packed(engine, "room", ballast=noise(24 * MIB))
    with lab(tmp_path, disk="24m") as made:
        version.share(made.shared)
        end = made.host.end(made.submit(version))
        assert (end["state"], "the disk of this node's Docker engine is full" in end["error"]) == (
            "failed",
            True,
        )
        assert made.has(version.ref.image) is None
        made.runner.stop()
        folder = made.runner.layout.runner / "images"
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
        try:
            made.runner.start()
            (made.shared / f"room-{version.ref.version}.tar").unlink()
            made.shared.rmdir()
            made.host.offer(version)
            end = made.host.end(made.submit(version))
            assert (end["state"], "there is less space left at" in end["error"]) == ("failed", True)
            made.runner.stop()
        finally:
            subprocess.run(["umount", folder], check=True)


# ---- what is killed heals


def test_a_killed_runner_goes_on_with_what_it_fetched(remote: Lab, engine: docker.DockerClient) -> None:
    version = packed(engine, "runner", "healed", noise(4 * MIB))
    remote.host.offer(version)
    remote.host.hold = 2 * MIB
    task = remote.submit(version)
    eventually(lambda: [each for each in remote.partials if each.stat().st_size == 2 * MIB])
    remote.runner.crash()
    remote.host.hold = None
    remote.host.go.set()
    remote.runner.start()
    assert remote.host.end(task)["state"] == "completed"
    assert remote.host.starts(version) == [0, 2 * MIB]
    assert remote.runner.whole_log(task) == b"healed"
    eventually(lambda: not remote.partials, what="the end of the part")


def test_runner_and_engine_killed_amid_a_load(tmp_path: Path, engine: docker.DockerClient) -> None:
    version = packed(engine, "amid", "healed", bytes(64 * MIB))
    with lab(tmp_path) as made:
        version.share(made.shared)
        task = made.submit(version)
        eventually(made.loading, what="a load")
        made.runner.crash()
        eventually(lambda: not made.loading(), what="the end of that load")
        assert made.has(version.ref.image) is None
        made.runner.start()
        eventually(made.loading, what="another load")
        made.node.stop(signal.SIGKILL)
        made.host.wait(lambda: any("engine" in text.lower() for text in made.texts(task)))
        made.node.start()
        assert made.host.end(task)["state"] == "completed"
        assert made.runner.whole_log(task) == b"healed"
        assert made.has(image_tag("amid")) == version.ref.image
