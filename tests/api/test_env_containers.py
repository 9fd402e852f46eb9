"""The containers of environments: made, found, stopped, adopted and cleaned up on a real engine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, ImageNotFound
from docker.models.containers import Container

from daemons.common.engine import LABEL_CLUSTER
from daemons.host.environments import containers as module
from daemons.host.environments import default, upkeep
from daemons.host.environments.containers import LABEL_ENVIRONMENT, restoring
from daemons.host.environments.images import load
from daemons.host.environments.work import Work
from hakuriver.errors import Conflict, HakuRiverError, Internal, NotFound, Unreachable, from_json
from hakuriver.paths import host_path
from hakuriver.terminal import Ended, Opening, Session
from tests import images
from tests.api.conftest import Running, running_host
from tests.api.peer import eventually
from tests.runner.engines import OwnEngine
from tests.runner.registry import Registry

Line = dict[str, Any]


class Lab:
    """Environments of a host, by its API; removed in the end with everything else that bears its mark."""

    def __init__(self, running: Running, engine: docker.DockerClient) -> None:
        self.running = running
        self.engine = engine
        self.cluster = running.host.store.identity.cluster

    async def ready(self) -> Lab:
        await eventually(lambda: self.running.host.environments.engine.api)
        return self

    async def create(self, name: str, image: str | None = None) -> list[Line]:
        return await self._work("POST", host_path("create"), {"name": name, "image": image})

    async def adopt(self, name: str, container: str) -> list[Line]:
        return await self._work("POST", host_path("adopt", name=name), {"container": container})

    async def pack(self, name: str) -> list[Line]:
        return await self._work("POST", host_path("pack", name=name), {})

    async def _work(self, method: str, path: str, body: Line) -> list[Line]:
        """All lines; raises the error of the last."""
        async with self.running.user.open(method, path, body=body, timeout=60) as response:
            lines = [json.loads(line) async for line in response.aiter_lines()]
        if lines[-1]["type"] == "error":
            raise from_json(500, lines[-1])
        return lines

    async def remove(self, name: str, version: int) -> Line:
        path = host_path("remove-version", name=name, version=version)
        found: Line = await self.running.user.request("DELETE", path, timeout=30)
        return found

    async def rollback(self, name: str, version: int | None = None) -> Line:
        body = {"version": version}
        found: Line = await self.running.user.request("POST", host_path("rollback", name=name), body=body)
        return found

    async def act(self, verb: str, name: str) -> Any:
        method = "DELETE" if verb == "delete" else "POST"
        return await self.running.user.request(method, host_path(verb, name=name), timeout=30)

    async def view(self, name: str) -> Line:
        found: Line = await self.running.user.request("GET", host_path("environment", name=name))
        return found

    async def until(self, name: str, **wanted: Any) -> Line:
        async def look() -> Line | None:
            try:
                found = await self.view(name)
            except NotFound:
                return None
            return found if all(found[key] == value for key, value in wanted.items()) else None

        found: Line = await eventually(look)
        return found

    def container(self, name: str) -> Container:
        (found,) = self.containers(name)
        return found

    def containers(self, name: str) -> list[Container]:
        labels = [f"{LABEL_CLUSTER}={self.cluster}", f"{LABEL_ENVIRONMENT}={name}"]
        return self.engine.containers.list(all=True, filters={"label": labels})

    def inside(self, name: str, command: str) -> str:
        code, said = self.container(name).exec_run(["sh", "-c", command])
        assert code == 0 and isinstance(said, bytes), said
        return said.decode()

    def close(self) -> None:
        for each in self.engine.api.containers(
            all=True, filters={"label": f"{LABEL_CLUSTER}={self.cluster}"}
        ):
            self.engine.api.remove_container(each["Id"], force=True)
        for image in self.engine.api.images(filters={"reference": "hakuriver/lab-*"}):
            for tag in image["RepoTags"] or ():
                with contextlib.suppress(APIError):
                    self.engine.api.remove_image(tag, force=True)


@pytest.fixture
async def lab(api: Running, engine: docker.DockerClient) -> AsyncIterator[Lab]:
    made = Lab(api, engine)
    try:
        yield await made.ready()
    finally:
        made.close()


async def test_a_container_is_made_labelled_and_capped(lab: Lab, busybox: str) -> None:
    lines = await lab.create("lab-a", busybox)
    assert lines[-1]["environment"]["container"] == "running"
    assert (await lab.view("lab-a"))["base"] == busybox
    facts = lab.container("lab-a").attrs
    settings = lab.running.host.settings.docker
    assert facts["Name"] == "/hakuriver-env-lab-a"
    assert facts["HostConfig"]["Memory"] == facts["HostConfig"]["MemorySwap"] == settings.environment_memory
    assert 0 < facts["HostConfig"]["NanoCpus"] <= settings.environment_cores * 10**9
    (Path(lab.running.host.policy.shared_dir) / "seen").write_text("shared")
    assert lab.inside("lab-a", "cat /shared/seen") == "shared"
    with pytest.raises(Conflict, match="has a container already"):
        await lab.create("lab-a", busybox)


async def test_stop_start_and_delete_are_quick_and_keep_what_is_inside(lab: Lab, busybox: str) -> None:
    await lab.create("lab-a", busybox)
    lab.inside("lab-a", "echo kept > /root/file; nohup sleep 1000 >/dev/null 2>&1 &")
    assert (await lab.act("stop", "lab-a"))["container"] == "stopped"
    assert lab.container("lab-a").attrs["State"]["ExitCode"] in (0, 143), "it wasn't waited for in vain"
    assert (await lab.act("start", "lab-a"))["container"] == "running"
    assert lab.inside("lab-a", "cat /root/file") == "kept\n"
    await lab.act("delete", "lab-a")
    assert lab.containers("lab-a") == []
    with pytest.raises(NotFound):
        await lab.view("lab-a")
    with pytest.raises(NotFound):
        await lab.act("start", "lab-a")


async def test_what_others_do_to_it_is_noticed(
    lab: Lab, busybox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL", 0.05)
    await lab.create("lab-a", busybox)
    lab.container("lab-a").kill()
    await lab.until("lab-a", container="stopped")
    lab.container("lab-a").start()
    await lab.until("lab-a", container="running")
    lab.container("lab-a").remove(force=True)
    assert lab.running.host.environments.containers.state("lab-a") in ("running", "missing")
    await eventually(lambda: lab.running.host.environments.containers.state("lab-a") == "missing")


async def test_somebody_elses_container_has_the_name(lab: Lab, busybox: str) -> None:
    foreign = lab.engine.containers.create(busybox, "true", name="hakuriver-env-lab-taken")
    try:
        await lab.create("lab-taken", busybox)
        assert lab.container("lab-taken").name == f"hakuriver-env-lab-taken-{lab.cluster[:8]}"
        await lab.act("delete", "lab-taken")
        foreign.reload()
        assert foreign.status == "created"
    finally:
        foreign.remove(force=True)


async def test_what_cant_be_made_leaves_nothing(lab: Lab, engine: docker.DockerClient) -> None:
    shellless = images.shellless(engine)
    refusals: list[tuple[str, str, type[HakuRiverError]]] = [
        ("hakuriver-test/never-made:1", "never-made", HakuRiverError),
        (shellless, "no /bin/sh", Conflict),
        ("hakuriver/lab-a:7", "never pulled", NotFound),
        ("127.0.0.1:1/any:1", "can't be reached", Unreachable),
    ]
    for image, text, kind in refusals:
        with pytest.raises(HakuRiverError, match=text) as caught:
            await lab.create("lab-a", image)
        assert isinstance(caught.value, kind) or caught.value.hint
        assert lab.containers("lab-a") == []
        with pytest.raises(NotFound):
            await lab.view("lab-a")


@pytest.fixture
def registry(engine: docker.DockerClient, busybox: str) -> Iterator[Registry]:
    made = Registry(engine, busybox)
    try:
        yield made
    finally:
        made.close()


async def test_an_image_is_pulled_when_it_was_named(lab: Lab, registry: Registry) -> None:
    image = f"{registry.name}/lab-pulled:1"
    try:
        await lab.create("lab-a", image)
        assert lab.engine.images.get(image)
        assert (await lab.view("lab-a"))["base"] == image
        with pytest.raises(HakuRiverError, match="neither on the host nor in its registry"):
            await lab.create("lab-b", f"{registry.name}/lab-pulled:none")
    finally:
        lab.close()
        with contextlib.suppress(ImageNotFound):
            lab.engine.images.remove(image, force=True)


async def test_an_environment_like_a_container_that_stays_as_it_is(lab: Lab, busybox: str) -> None:
    origin = lab.engine.containers.run(
        busybox, ["sh", "-c", "echo mine > /root/file; sleep 1000"], detach=True, labels={"theirs": "1"}
    )
    try:
        await eventually(lambda: origin.exec_run("cat /root/file")[0] == 0)
        before = origin.attrs["Config"]
        await lab.adopt("lab-a", str(origin.name))
        assert lab.inside("lab-a", "cat /root/file") == "mine\n"
        origin.reload()
        assert (origin.status, origin.attrs["Config"]) == ("running", before)
        facts = lab.container("lab-a").attrs
        assert facts["HostConfig"]["Memory"] == lab.running.host.settings.docker.environment_memory
        config = lab.engine.images.get(facts["Image"]).attrs["Config"]
        assert config["Entrypoint"] in (None, [""]) and not config["Cmd"], (
            "those of the image, not of the container"
        )
        assert not lab.engine.api.images(filters={"reference": "hakuriver/lab-a"}), "no name is left"
        await lab.act("delete", "lab-a")
        with pytest.raises(ImageNotFound):
            lab.engine.images.get(facts["Image"])
        assert lab.engine.images.get(busybox)
        with pytest.raises(NotFound, match="no container nothing"):
            await lab.adopt("lab-b", "nothing")
    finally:
        origin.remove(force=True)


async def test_an_id_that_means_several_containers_is_refused(
    lab: Lab, engine: docker.DockerClient, busybox: str
) -> None:
    made = [engine.containers.create(busybox, "true")]
    try:
        while not (twice := [one for one in made[:-1] if str(one.id)[0] == str(made[-1].id)[0]]):
            made.append(engine.containers.create(busybox, "true"))
        with pytest.raises(HakuRiverError, match="Multiple IDs") as refused:
            await lab.adopt("lab-a", str(twice[0].id)[0])
        assert not isinstance(refused.value, Internal)
    finally:
        for each in made:
            each.remove()


def test_a_commit_puts_back_what_the_image_says() -> None:
    config = {"Entrypoint": ["/tini", "--"], "Cmd": ['say "hi"'], "User": "x"}
    assert restoring(config)[:2] == ['ENTRYPOINT ["/tini", "--"]', 'CMD ["say \\"hi\\""]']
    assert restoring({})[:2] == ['ENTRYPOINT [""]', "CMD []"], "the container's would stay"
    assert f'{LABEL_CLUSTER}=""' in restoring({})[2]


async def test_an_adoption_that_was_killed_is_swept(
    tmp_path: Path, engine: docker.DockerClient, busybox: str
) -> None:
    async with running_host(tmp_path) as running:
        lab = Lab(running, engine)
    ours, theirs = (f"adopting-{cluster}-00" for cluster in (lab.cluster[:8], "fffffff1"))
    try:
        for tag in (ours, theirs):
            engine.images.get(busybox).tag("hakuriver/lab-swept", tag)

        def tags() -> set[str]:
            found = engine.api.images(filters={"reference": "hakuriver/lab-swept"})
            return {tag.partition(":")[2] for each in found for tag in each["RepoTags"]}

        assert tags() == {ours, theirs}
        async with running_host(tmp_path):
            await eventually(lambda: tags() == {theirs})
    finally:
        lab.close()


async def test_a_new_container_from_the_current_version(lab: Lab, busybox: str) -> None:
    await lab.create("lab-a", busybox)
    lab.inside("lab-a", "echo packed > /root/file")
    packed = (await lab.pack("lab-a"))[-1]["version"]
    assert (await lab.act("delete", "lab-a"))["versions"] == 1
    for tag in (packed["version"], "base"):
        lab.engine.images.remove(f"hakuriver/lab-a:{tag}")
    with pytest.raises(ImageNotFound):
        lab.engine.images.get(packed["image"])
    await lab.create("lab-a")
    assert lab.inside("lab-a", "cat /root/file") == "packed\n"
    assert (await lab.view("lab-a"))["base"] == busybox


@pytest.mark.parametrize("loaded", [True, False])
async def test_an_image_goes_with_the_last_that_needs_it(lab: Lab, busybox: str, loaded: bool) -> None:
    await lab.create("lab-a", busybox)
    lab.inside("lab-a", "echo one > /root/file")
    one = (await lab.pack("lab-a"))[-1]["version"]
    lab.inside("lab-a", "echo two > /root/file")
    two = (await lab.pack("lab-a"))[-1]["version"]
    await lab.act("delete", "lab-a")
    await lab.rollback("lab-a")
    if loaded:
        for tag in ("base", one["version"]):
            lab.engine.images.remove(f"hakuriver/lab-a:{tag}")
    await lab.create("lab-a")
    assert lab.inside("lab-a", "cat /root/file") == "one\n"
    await lab.rollback("lab-a", two["version"])
    await lab.remove("lab-a", one["version"])
    assert lab.engine.images.get(one["image"]), "its container uses it"
    await lab.act("delete", "lab-a")
    with pytest.raises(ImageNotFound):
        lab.engine.images.get(one["image"])
    assert set(lab.engine.images.get(two["image"]).tags) == {
        f"hakuriver/lab-a:{two['version']}",
        "hakuriver/lab-a:base",
    }


async def test_a_version_whose_image_the_engine_refuses(lab: Lab, busybox: str) -> None:
    await lab.create("lab-a", busybox)
    await lab.pack("lab-a")
    await lab.act("delete", "lab-a")
    await lab.running.host.store.write(
        lambda tx: tx.connection.exec_driver_sql("UPDATE environment_version SET image = 'No:Such:Image'")
    )
    with pytest.raises(HakuRiverError, match="invalid reference format") as refused:
        await lab.create("lab-a")
    assert not isinstance(refused.value, Internal)


async def test_a_tarball_that_vanished_is_not_the_engines_fault(lab: Lab, tmp_path: Path) -> None:
    at_work = Work("create", "someone", lambda: None)
    with pytest.raises(NotFound, match=r"gone\.tar is missing"):
        await load(lab.running.host.environments.engine, at_work, tmp_path / "gone.tar")


async def test_one_without_a_container_has_none_to_delete(lab: Lab, busybox: str) -> None:
    await lab.create("lab-a", busybox)
    await lab.pack("lab-a")
    await lab.act("delete", "lab-a")
    with pytest.raises(NotFound, match="has no container"):
        await lab.act("delete", "lab-a")
    await lab.create("lab-b", busybox)
    lab.container("lab-b").remove(force=True)
    assert (await lab.act("delete", "lab-b"))["container"] == "missing"
    with pytest.raises(NotFound, match="there is no environment lab-b"):
        await lab.act("delete", "lab-b")


async def test_an_engine_that_goes_and_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = OwnEngine().start()
    monkeypatch.setenv("DOCKER_HOST", own.url)
    monkeypatch.setattr(module, "POLL", 0.05)
    monkeypatch.setattr(upkeep, "ENGINE_SECONDS", 0.05)
    monkeypatch.setattr(default, "NOTICE", 0.05)
    monkeypatch.setattr(default, "LOOK", 600.0)
    flags = {
        "docker.initial_base_image": "hakuriver-test/never-brought:1",
        "docker.default_container_name": "lab-default",
    }
    try:
        with contextlib.closing(own.client) as client:
            image = images.busybox(client)
        async with running_host(tmp_path, flags=flags) as running:
            lab = await Lab(running, own.client).ready()
            await lab.create("lab-a", image)
            await eventually(lambda: _problem(running))
            session = Session(lambda: (running.url, running.tokens.user), "lab-a", Opening())
            await session.start()
            own.stop(9)
            with pytest.raises(Unreachable, match="engine"):
                while not isinstance(await session.receive(), Ended):
                    pass
            await session.close()
            await lab.until("lab-a", container="unknown")
            for act in (lab.create("lab-b", image), lab.act("stop", "lab-a"), lab.adopt("lab-b", "x")):
                with pytest.raises(Unreachable, match="engine"):
                    await act
            with pytest.raises(Unreachable, match=r"no Docker engine runs here$|broke the connection off$"):
                await lab.act("delete", "lab-a")
            await eventually(lambda: not _problem(running))
            assert "--container NULL" in (await lab.view("lab-default"))["problem"]
            own.start()
            await lab.until("lab-a", container="stopped")
    finally:
        own.wipe()


async def test_the_default_environment_is_made_and_packed(
    tmp_path: Path, engine: docker.DockerClient, busybox: str
) -> None:
    flags = {"docker.initial_base_image": busybox, "docker.default_container_name": "lab-default"}
    async with running_host(tmp_path, flags=flags) as running:
        lab = Lab(running, engine)
        try:
            found = await lab.until("lab-default", versions=1, work=None)
            assert (found["base"], found["container"], found["problem"]) == (busybox, "running", "")
            assert found["current"] is not None
        finally:
            lab.close()


async def test_a_default_environment_that_cant_be_had_says_what_to_do(
    tmp_path: Path, engine: docker.DockerClient, busybox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default, "LOOK", 0.05)
    image = "hakuriver-test/brought-later:1"
    flags = {"docker.initial_base_image": image, "docker.default_container_name": "lab-default"}
    async with running_host(tmp_path, flags=flags) as running:
        lab = Lab(running, engine)
        try:
            await eventually(lambda: _problem(running))
            assert f"docker pull {image}" in _problem(running)
            assert running.host.environments.containers.state("lab-default") == "missing"
            engine.images.get(busybox).tag(image)
            await lab.until("lab-default", versions=1, problem="")
        finally:
            lab.close()
            with contextlib.suppress(ImageNotFound):
                engine.images.remove(image)


def _problem(running: Running) -> str:
    views = {each["name"]: each["problem"] for each in running.host.environments.views()}
    found = views.get("lab-default", "")
    return found if "docker pull" in found else ""


async def test_no_engine_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    flags = {"docker.initial_base_image": "any:1", "docker.default_container_name": "lab-default"}
    async with running_host(tmp_path, flags=flags) as running:
        lab = Lab(running, docker.DockerClient(f"unix://{tmp_path}/none.sock", version="1.41"))
        found = await lab.until("lab-default", container="unknown", versions=0)
        assert "--container NULL" in found["problem"]
        for route in ("versions", "rollback"):
            method = "GET" if route == "versions" else "POST"
            with pytest.raises(NotFound, match="lab-default was not made yet: no Docker engine"):
                await running.user.request(method, host_path(route, name="lab-default"))
        with pytest.raises(Unreachable, match="no Docker engine"):
            await lab.create("lab-a", "any:1")
