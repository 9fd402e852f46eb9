"""An environment from its container on the host to tasks on two nodes with engines of their own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docker
import pytest

from hakuriver.api import Client
from hakuriver.paths import host_path
from tests.chaos.lab import Lab, lab, online
from tests.runner.engines import OwnEngine
from tests.waiting import until

pytestmark = pytest.mark.docker
MANY = 50
ENDED = {"completed", "failed", "killed", "lost"}


def lines(client: Client, route: str, body: dict[str, Any], **parts: str) -> list[dict[str, Any]]:
    """All lines of something that takes long."""
    with client.open("POST", host_path(route, **parts), body=body, timeout=60) as answer:
        return [json.loads(line) for line in answer.read().splitlines()]


def done(client: Client, route: str, body: dict[str, Any], **parts: str) -> dict[str, Any]:
    """The last line of something that must succeed."""
    last = lines(client, route, body, **parts)[-1]
    assert last["type"] == "done", last
    return last


class Nodes:
    """A host with the machine's engine, ``n0`` without shared storage and ``n1`` with it."""

    def __init__(self, made: Lab, engines: list[OwnEngine]) -> None:
        self.lab = made
        self.engines = engines
        self.client = made.client

    def submit(self, count: int = 1, **facts: Any) -> list[int]:
        """The same task that many times."""
        body = {"command": ["cat", "/marker"], "cores": 0, "memory": 2**26} | facts
        found = [self.lab.submit(time.time_ns(), body, time.monotonic() + 30) for _ in range(count)]
        assert len(set(found)) == count
        return found

    def ended(self, tasks: list[int]) -> list[dict[str, Any]]:
        """The tasks, once all have ended."""

        def look() -> list[dict[str, Any]] | None:
            shown = self.client.request("POST", host_path("show"), body={"tasks": tasks})["items"]
            return shown if all(each["state"] in ENDED for each in shown) else None

        return until(look, f"the end of {len(tasks)} tasks", seconds=90)

    def loads(self, node: int) -> int:
        """How many images its engine has loaded."""
        api: Any = self.engines[node].client.api
        told = api.events(since=0, until=str(time.time()), decode=True, filters={"event": "load"})
        return len(list(told))


@pytest.fixture
def nodes(engine: docker.DockerClient, busybox: str, tmp_path: Path) -> Iterator[Nodes]:
    if os.geteuid() != 0:
        pytest.skip("an engine needs root")
    with ExitStack() as stack:
        engines = [OwnEngine() for _ in range(2)]
        for each in engines:
            stack.callback(each.wipe)
            each.start()
        environ = {"HAKURIVER_DOCKER_INITIAL_BASE_IMAGE": busybox}
        made = stack.enter_context(lab(tmp_path / "lab", 1, 2, environ))
        for runner, own in zip(made.runners, engines, strict=True):
            runner.stop()
            runner.environ["DOCKER_HOST"] = own.url
        made.runners[0].environ["HAKURIVER_PATHS_SHARED_DIR"] = str(tmp_path / "not-shared")
        for runner in made.runners:
            runner.start()
        until(lambda: online(made) == 2, "both nodes are online", seconds=30)
        stack.callback(_remove, engine, made)
        yield Nodes(made, engines)


def _remove(engine: docker.DockerClient, made: Lab) -> None:
    """What the host left in the machine's engine."""
    cluster = made.client.request("GET", host_path("cluster"))["cluster"]
    for each in engine.containers.list(all=True, filters={"label": f"hakuriver.cluster={cluster}"}):
        each.remove(force=True, v=True)
    for image in engine.images.list("hakuriver/two-nodes"):
        for tag in image.tags:
            engine.images.remove(tag)


def test_built_once_and_run_everywhere(nodes: Nodes, engine: docker.DockerClient, busybox: str) -> None:
    client, name = nodes.client, "two-nodes"
    done(client, "create", {"name": name, "image": busybox})
    cluster = client.request("GET", host_path("cluster"))["cluster"]
    labels = [f"hakuriver.cluster={cluster}", f"hakuriver.environment={name}"]
    client.request("POST", host_path("start", name=name))
    (box,) = engine.containers.list(filters={"label": labels})

    def pack(marker: str) -> int:
        assert box.exec_run(["sh", "-c", f"printf {marker} >/marker"]).exit_code == 0
        return int(done(client, "pack", {}, name=name)["version"]["version"])

    first = pack("one")
    tasks = nodes.ended(nodes.submit(MANY, container=name))
    assert {each["state"] for each in tasks} == {"completed"}, (
        tasks[0],
        nodes.lab.log(tasks[0]["id"], "stderr"),
    )
    assert {each["node"] for each in tasks} == {"n0", "n1"}
    assert {each["version"] for each in tasks} == {first}
    assert len({each["image_digest"] for each in tasks}) == 1
    assert [nodes.loads(0), nodes.loads(1)] == [1, 1]
    assert nodes.lab.log(tasks[0]["id"], "stdout") == b"one"

    second = pack("two")
    told = lines(client, "prefetch", {}, name=name)
    assert {each["node"] for each in told} == {"n0", "n1"}
    assert [each["type"] for each in told].count("done") == 2
    assert [nodes.loads(0), nodes.loads(1)] == [2, 2]
    (task,) = nodes.ended(nodes.submit(container=name))
    assert (task["state"], task["version"]) == ("completed", second)
    assert nodes.lab.log(task["id"], "stdout") == b"two"
    pinned = nodes.ended(nodes.submit(container=f"{name}@{first}"))[0]
    assert (pinned["version"], nodes.lab.log(pinned["id"], "stdout")) == (first, b"one")

    client.request("POST", host_path("rollback", name=name), body={})
    (task,) = nodes.ended(nodes.submit(container=name))
    assert (task["version"], nodes.lab.log(task["id"], "stdout")) == (first, b"one")
    assert [nodes.loads(0), nodes.loads(1)] == [2, 2]

    nodes.lab.runners[1].kill9()
    until(lambda: online(nodes.lab) == 1, "a node is away", seconds=30)
    told = lines(client, "prefetch", {"nodes": ["n0", "n1"]}, name=name)
    last = {each["node"]: each for each in told}
    assert last["n0"]["type"] == "done"
    assert last["n1"]["error"]["message"] == "node n1 is unreachable"
    nodes.lab.runners[1].start()
