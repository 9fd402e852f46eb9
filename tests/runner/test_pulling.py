"""``--image``: what a registry has is pulled when somebody names it, once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, ImageNotFound

from tests import images
from tests.runner.peer import Host, Runner
from tests.runner.registry import Registry, digest_of

pytestmark = pytest.mark.docker


@pytest.fixture
def registry(engine: docker.DockerClient, busybox: str) -> Iterator[Registry]:
    found = Registry(engine, busybox)
    yield found
    found.close()


@pytest.fixture
def crew(engine: docker.DockerClient, tmp_path: Path) -> Iterator[Runner]:
    host = Host()
    runner = Runner(tmp_path / "state", host, next_task=int.from_bytes(tmp_path.name.encode()[-4:], "big"))
    try:
        yield runner.start()
    finally:
        runner.close()
        host.close()
        label = f"hakuriver.runner={host.registrations[-1]['runner']}"
        for each in engine.api.containers(all=True, filters={"label": label}):
            with contextlib.suppress(APIError):  # the engine may be removing it at this moment
                engine.api.remove_container(each["Id"], force=True)


def run(crew: Runner, image: str) -> int:
    return crew.submit("true", executor="docker", image=image, memory=2**26)


def test_it_is_pulled_once_and_its_digest_told(
    crew: Runner, registry: Registry, engine: docker.DockerClient
) -> None:
    repository = f"{registry.name}/lab/busybox"
    try:
        ends = [crew.host.end(task) for task in [run(crew, f"{repository}:1") for _ in range(3)]]
        assert [end["state"] for end in ends] == ["completed"] * 3, ends
        assert {end["image"] for end in ends} == {f"{repository}@{digest_of(registry.manifest)}"}
        assert registry.pulls <= 1  # the engine has the layer of the same image already
        refused = crew.host.end(run(crew, f"{repository}:2"))
        assert refused["state"] == "failed"
        assert f"image {repository}:2 is not on node n1, and can't be pulled: " in refused["error"]
        assert "manifest unknown" in refused["error"] or "not found" in refused["error"]
    finally:
        engine.images.remove(f"{repository}:1")


def test_what_no_registry_can_have_is_not_asked_for(crew: Runner, engine: docker.DockerClient) -> None:
    for image in ("hakuriver/no-such:base", f"sha256:{'0' * 64}"):
        end = crew.host.end(run(crew, image))
        assert end["state"] == "failed"
        assert f"image {image} is not on node n1" in end["error"]
        assert "pulled" not in end["error"]


def test_an_image_without_a_registry_is_told_by_its_id(crew: Runner, engine: docker.DockerClient) -> None:
    assert crew.host.end(run(crew, images.BUSYBOX))["image"] == engine.images.get(images.BUSYBOX).id
    with pytest.raises(ImageNotFound):
        engine.images.get("hakuriver/no-such:base")
