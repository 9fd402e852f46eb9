"""Versions of environments: packed, imported, listed, rolled back, removed, served by range."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import secrets
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError

from hakuriver import errors
from hakuriver.environments import container_name, tarball_name
from hakuriver.paths import host_path
from tests.api.conftest import Running, running_host
from tests.api.peer import eventually

pytestmark = pytest.mark.docker


class Work:
    """What people do with environments, over real HTTP; ``end`` removes what it leaves on the engine."""

    def __init__(self, running: Running, engine: docker.DockerClient, folder: Path) -> None:
        self.running = running
        self.engine = engine
        self.folder = folder
        self.name = f"t{secrets.token_hex(4)}"

    async def ask(self, method: str, route: str, **more: Any) -> Any:
        """One exchange about the environment."""
        parts = {"version": more.pop("version")} if "version" in more else {}
        return await self.running.user.request(method, host_path(route, name=self.name, **parts), **more)

    async def lines(self, route: str, body: object = None, **query: Any) -> list[dict[str, Any]]:
        """All lines of something that takes long; raises what its last one says."""
        path = host_path(route) if route == "create" else host_path(route, name=self.name)
        found = []
        async with self.running.user.open("POST", path, body=body, query=query, timeout=60) as answer:
            async for line in answer.aiter_lines():
                found.append(json.loads(line))
        last = found[-1]
        if last["type"] == "error":
            raise errors.from_json(last["error"]["status"], {"error": last["error"]})
        return found

    async def create(self, image: str) -> None:
        await self.lines("create", {"name": self.name, "image": image})

    async def pack(self, note: str = "") -> dict[str, Any]:
        """A new version, as it is answered."""
        found: dict[str, Any] = (await self.lines("pack", {"note": note}))[-1]
        assert found["type"] == "done"
        assert found["environment"]["current"] == found["version"]["version"]
        return dict(found["version"])

    async def take(self, data: bytes, filename: str = "", note: str = "") -> dict[str, Any]:
        """The same of an upload."""
        return dict((await self.lines("import", data, filename=filename, note=note))[-1]["version"])

    async def versions(self) -> list[int]:
        return [each["version"] for each in await self.ask("GET", "versions")]

    def shown(self) -> dict[str, Any]:
        """The environment as it is listed; before it is, there is nothing to it."""
        listed = {each["name"]: dict(each) for each in self.running.host.environments.views()}
        return listed.get(self.name, {"versions": 0, "problem": ""})

    def path(self, version: int) -> Path:
        return self.folder / tarball_name(self.name, version)

    def files(self) -> set[str]:
        """Everything in the folder of tarballs."""
        return {each.name for each in self.folder.iterdir()} if self.folder.exists() else set()

    def names(self, *versions: int) -> set[str]:
        """What the folder has of these versions, and nothing else."""
        return {f"{tarball_name(self.name, each)}{end}" for each in versions for end in ("", ".json")}

    def tags(self) -> dict[str, str]:
        """Tag → image of the environment on the engine."""
        listed = self.engine.api.images(filters={"reference": f"hakuriver/{self.name}"})
        tags = [(tag.rpartition(":")[2], image["Id"]) for image in listed for tag in image["RepoTags"] or ()]
        return dict(tags)

    def change(self, text: str) -> None:
        """Do something in the container."""
        found = self.engine.containers.get(container_name(self.name))
        assert found.exec_run(["sh", "-c", f"echo {text} > /marker"]).exit_code == 0

    def end(self) -> None:
        with contextlib.suppress(APIError):
            self.engine.api.remove_container(container_name(self.name), force=True)
        for tag in self.tags():
            self.engine.api.remove_image(f"hakuriver/{self.name}:{tag}")


@contextlib.asynccontextmanager
async def working(folder: Path, engine: docker.DockerClient, **flags: Any) -> AsyncIterator[Work]:
    chosen = {
        "docker.environment_memory": 64 * 2**20,
        **{k.replace("_", ".", 1): v for k, v in flags.items()},
    }
    async with running_host(folder, flags=chosen) as running:
        made = Work(running, engine, folder / "shared" / "hakuriver-containers")
        await eventually(lambda: running.host.environments.engine.api is not None)
        try:
            yield made
        finally:
            made.end()


@pytest.fixture(scope="session")
def saved(engine: docker.DockerClient, busybox: str) -> bytes:
    """What docker save writes, with the image's name."""
    return b"".join(engine.api.get_image(busybox))


@pytest.fixture
async def work(tmp_path: Path, engine: docker.DockerClient) -> AsyncIterator[Work]:
    async with working(tmp_path, engine) as made:
        yield made


def marker(data: bytes) -> str:
    """What ``/marker`` says in the newest layer of a tarball."""
    with tarfile.open(fileobj=io.BytesIO(data)) as whole:
        (image,) = json.load(whole.extractfile("manifest.json"))  # type: ignore[arg-type]
        layer = whole.extractfile(image["Layers"][-1])
        assert image["RepoTags"] is None
        with tarfile.open(fileobj=layer) as files:
            found = files.extractfile("marker")
            assert found is not None
            return found.read().decode().strip()


async def test_pack_again_and_go_back(work: Work, busybox: str) -> None:
    await work.create(busybox)
    with pytest.raises(errors.Conflict, match="never packed"):
        await work.ask("POST", "rollback", body={})
    work.change("one")
    first = await work.pack("the first")
    work.change("two")
    second = await work.pack()
    assert second["version"] > first["version"]
    assert first["current"], "when it was answered"
    data = work.path(first["version"]).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (first["size"], first["sha256"])
    assert marker(data) == "one"
    assert marker(work.path(second["version"]).read_bytes()) == "two"
    assert work.files() == work.names(first["version"], second["version"])
    beside = json.loads(
        work.path(first["version"]).with_name(work.path(first["version"]).name + ".json").read_text()
    )
    assert {key: beside[key] for key in ("sha256", "size", "image", "note", "by")} == {
        key: first[key] for key in ("sha256", "size", "image", "note", "by")
    }
    assert work.tags() == {
        str(first["version"]): first["image"],
        str(second["version"]): second["image"],
        "base": second["image"],
    }
    made = work.engine.images.get(first["image"]).attrs["Config"]
    plain = work.engine.images.get(busybox).attrs["Config"]
    entry = [word for word in made["Entrypoint"] or () if word]  # [""] is how an engine says none
    assert (entry, made["Cmd"] or None) == (plain["Entrypoint"] or [], plain["Cmd"])
    assert not any((made["Labels"] or {}).values()), "nothing of ours is inherited"
    shown = await work.ask("POST", "rollback", body={})
    assert (shown["current"], shown["versions"]) == (first["version"], 2)
    assert work.tags()["base"] == first["image"]
    listed = await work.ask("GET", "versions")
    assert [(each["version"], each["current"]) for each in listed] == [
        (second["version"], False),
        (first["version"], True),
    ]
    assert (listed[1]["note"], listed[1]["tasks"]) == ("the first", [])
    with pytest.raises(errors.Conflict, match="no version before"):
        await work.ask("POST", "rollback", body={})
    shown = await work.ask("POST", "rollback", body={"version": second["version"]})
    assert shown["current"] == second["version"]


async def test_packs_of_one_environment_queue_up(work: Work, busybox: str) -> None:
    await work.create(busybox)
    made = await asyncio.gather(*(work.pack(str(number)) for number in range(3)))
    numbers = [each["version"] for each in made]
    assert len(set(numbers)) == 3
    assert await work.versions() == sorted(numbers, reverse=True)
    assert work.files() == work.names(*numbers)


async def test_the_newest_are_kept_and_those_that_tasks_need(
    tmp_path: Path, engine: docker.DockerClient, saved: bytes
) -> None:
    async with working(tmp_path, engine, docker_keep_versions=2) as work:
        first, second, third = [(await work.take(saved))["version"] for _ in range(3)]
        assert await work.versions() == [third, second]
        assert work.files() == work.names(third, second)
        assert set(work.tags()) == {str(third), str(second), "base"}
        pinned = await work.running.submit("true", container=f"{work.name}@{second}")
        await work.ask("POST", "rollback", body={"version": third})
        fourth = (await work.take(saved))["version"]
        fifth = (await work.take(saved))["version"]
        assert await work.versions() == [fifth, fourth, second]
        listed = await work.ask("GET", "versions")
        assert [each["tasks"] for each in listed] == [[], [], [pinned["id"]]]
        with pytest.raises(errors.Conflict, match=f"needed by task {pinned['id']}"):
            await work.ask("DELETE", "remove-version", version=second)
        assert work.files() == work.names(fifth, fourth, second)
        await work.running.tell(pinned["id"], "kill")
        assert (await work.ask("DELETE", "remove-version", version=second))["version"] == second
        assert work.files() == work.names(fifth, fourth)
        assert first not in await work.versions()


async def test_what_was_imported_just_now_is_kept_although_there_are_newer_ones(
    tmp_path: Path, engine: docker.DockerClient, saved: bytes
) -> None:
    async with working(tmp_path, engine, docker_keep_versions=2) as work:
        newer = [(await work.take(saved))["version"] for _ in range(2)]
        older = await work.take(saved, f"{work.name}-1500000000.tar")
        assert (older["version"], older["current"]) == (1500000000, False)
        assert await work.versions() == [*reversed(newer), 1500000000]
        assert work.files() == work.names(*newer, 1500000000)
        newest = (await work.take(saved))["version"]
        assert await work.versions() == [newest, newer[1]]


async def test_the_current_version_stays_unless_nobody_needs_any(work: Work, saved: bytes) -> None:
    old, new = [(await work.take(saved))["version"] for _ in range(2)]
    with pytest.raises(errors.Conflict) as refused:
        await work.ask("DELETE", "remove-version", version=new)
    assert "roll back first" in refused.value.hint
    await work.ask("DELETE", "remove-version", version=old)
    waiting = await work.running.submit("true", container=work.name)
    with pytest.raises(errors.Conflict, match=f"needed by task {waiting['id']}"):
        await work.ask("DELETE", "remove-version", version=new)
    await work.running.tell(waiting["id"], "kill")
    await work.ask("DELETE", "remove-version", version=new)
    assert (work.files(), work.tags()) == (set(), {})
    with pytest.raises(errors.NotFound):
        await work.ask("GET", "environment")


async def test_deleting_the_container_keeps_the_versions(work: Work, busybox: str) -> None:
    await work.create(busybox)
    version = (await work.pack())["version"]
    await work.ask("DELETE", "delete")
    shown = await work.ask("GET", "environment")
    assert (shown["container"], shown["current"], shown["versions"]) == ("missing", version, 1)
    with pytest.raises(errors.NotFound, match="no container"):
        await work.pack()
    assert work.files() == work.names(version)
    await work.lines("create", {"name": work.name})
    assert (await work.ask("GET", "environment"))["container"] == "running"


async def test_an_image_that_somebody_saved_is_imported(work: Work, busybox: str, saved: bytes) -> None:
    before = work.engine.images.get(busybox).id
    made = await work.take(saved, f"{work.name}-1600000000.tar", "from before")
    assert (made["version"], made["note"], made["image"], made["current"]) == (
        1600000000,
        "from before",
        before,
        True,
    )
    assert busybox.partition(":")[0].encode() not in work.path(1600000000).read_bytes()
    again = await work.take(gzip.compress(saved, 1), f"{work.name}-1600000000.tar")
    assert again["version"] > 1700000000, "the number is taken"
    assert again["sha256"] == made["sha256"]
    older = await work.take(saved, f"{work.name}-1500000000.tar")
    assert (older["version"], older["current"]) == (1500000000, False)
    assert await work.versions() == [again["version"], 1600000000, 1500000000]
    assert work.files() == work.names(*await work.versions())
    future = await work.take(saved, f"{work.name}-999999999999.tar")
    assert future["version"] < 10**11


async def test_a_tarball_without_sidecar_is_shown_and_usable_after_an_import(
    tmp_path: Path, engine: docker.DockerClient, saved: bytes
) -> None:
    folder = tmp_path / "shared" / "hakuriver-containers"
    folder.mkdir(parents=True)
    (folder / "old-lab-1600000000.tar").write_bytes(saved)
    async with working(tmp_path, engine) as work:
        work.name = "old-lab"
        shown = await eventually(lambda: work.shown()["problem"])
        assert f"env import {folder}/old-lab-1600000000.tar" in shown
        other = await work.take(saved + bytes(512), "old-lab-1600000000.tar")
        assert other["version"] != 1600000000, "what lies there is somebody's, and something else"
        assert (folder / "old-lab-1600000000.tar").read_bytes() == saved
        assert (await work.take(saved, "old-lab-1600000000.tar"))["version"] == 1600000000
        assert work.files() == work.names(other["version"], 1600000000)


async def test_what_is_no_image_is_refused_and_leaves_nothing(work: Work, saved: bytes) -> None:
    flipped = bytearray(saved)
    flipped[len(saved) // 2] ^= 16
    files = io.BytesIO()
    with tarfile.open(fileobj=files, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("etc"))
    cases = [
        ("unexpected end of data", saved[: len(saved) // 2]),
        ("damaged", bytes(flipped)),
        ("invalid header", b"x" * 5000),
        ("isn't a whole tar file", b""),
        ("isn't a tarball of an image", files.getvalue()),
    ]
    for why, each in cases:
        with pytest.raises(errors.UsageError, match=why) as refused:
            await work.take(each, f"{work.name}-1.tar")
        assert refused.value.instance_code == "bad_tarball"
    with pytest.raises(errors.NotFound):
        await work.ask("GET", "environment")
    assert work.files() == set()
    with pytest.raises(errors.UsageError, match="unknown parameter"):
        await work.lines("import", saved, name="x")
    with pytest.raises(errors.UsageError, match="note"):
        await work.lines("import", saved, note="x" * 500)


async def test_an_upload_that_breaks_off_is_never_a_version(work: Work, saved: bytes) -> None:
    url = work.running.url.removeprefix("http://")
    reader, writer = await asyncio.open_connection(*url.split(":"))
    head = f"POST {host_path('import', name=work.name)} HTTP/1.1\r\nHost: x\r\n"
    head += (
        f"Authorization: Bearer {work.running.tokens.user}\r\nContent-Length: {len(saved) + 10**6}\r\n\r\n"
    )
    writer.write(head.encode() + saved)  # all of the image, and more was promised
    await writer.drain()
    await eventually(lambda: work.running.host.environments.works.names() == [work.name])
    for act in (work.ask("DELETE", "remove-version", version=1), work.ask("DELETE", "delete")):
        with pytest.raises(errors.Conflict, match="is being imported"):
            await act
    writer.close()
    await eventually(lambda: not work.running.host.environments.works.names())
    assert work.files() == set()
    with pytest.raises(errors.NotFound):
        await work.ask("GET", "environment")
    reader.feed_eof()


async def test_a_tarball_by_range(work: Work, saved: bytes) -> None:
    made = await work.take(saved)
    whole = work.path(made["version"]).read_bytes()
    path = host_path("tarball", name=work.name, version=made["version"])

    async def get(asked: str | None) -> tuple[int, bytes, str | None]:
        headers = {} if asked is None else {"Range": asked}
        async with work.running.node.open("GET", path, headers=headers) as answer:
            assert answer.headers["etag"] == f'"{made["sha256"]}"'
            return answer.status_code, await answer.aread(), answer.headers.get("content-range")

    size = len(whole)
    assert await get(None) == (200, whole, None)
    assert await get("bytes=0-") == (206, whole, f"bytes 0-{size - 1}/{size}")
    assert await get("bytes=1000001-") == (206, whole[1000001:], f"bytes 1000001-{size - 1}/{size}")
    assert await get("bytes=5-9") == (206, whole[5:10], f"bytes 5-9/{size}")
    assert await get(f"bytes=5-{10**15}") == (206, whole[5:], f"bytes 5-{size - 1}/{size}")
    assert await get("bytes=-5") == (200, whole, None), "not understood, so not obeyed"
    with pytest.raises(errors.UsageError) as refused:
        await get(f"bytes={size}-")
    assert refused.value.instance_code == "out_of_range"
    work.path(made["version"]).write_bytes(whole[:-1])
    with pytest.raises(errors.NotFound, match=f"has {size - 1} bytes instead of {size}"):
        await get(None)
    work.path(made["version"]).unlink()
    with pytest.raises(errors.NotFound, match="is missing"):
        await get(None)
    with pytest.raises(errors.NotFound, match="no version 7"):
        await work.ask("GET", "tarball", version=7)


async def test_a_version_that_the_database_forgot_is_found_again(
    tmp_path: Path, engine: docker.DockerClient, saved: bytes
) -> None:
    async with working(tmp_path, engine) as work:
        kept, removed = await work.take(saved, note="kept"), await work.take(saved)
        store, path = work.running.host.store, work.path(kept["version"])
        for table in ("environment_version", "environment"):
            await store.write(lambda tx, table=table: tx.connection.exec_driver_sql(f"DELETE FROM {table}"))  # type: ignore[misc]
        beside = path.with_name(work.path(removed["version"]).name + ".json")
        beside.write_text(json.dumps({**json.loads(beside.read_text()), "removed": True}))
        name = work.name
    async with working(tmp_path, engine) as work:
        work.name = name
        await eventually(lambda: work.shown()["versions"] == 1)
        assert work.files() == work.names(kept["version"]), "what was to be removed, is"
        (found,) = await work.ask("GET", "versions")
        assert found == kept
        beside = path.with_name(path.name + ".json")
        beside.unlink()
    async with working(tmp_path, engine) as work:
        work.name = name
        await eventually(beside.exists)
        path.unlink()
    async with working(tmp_path, engine) as work:
        work.name = name
        problem = await eventually(lambda: work.shown()["problem"])
        assert f"{path.name} is missing" in problem
        await work.ask("DELETE", "remove-version", version=kept["version"])
        assert work.files() == set()


async def test_names_that_docker_does_not_take_are_refused(work: Work) -> None:
    for name in ("-x", "X", "a b", "a..b", "x" * 70):
        with pytest.raises(errors.UsageError):
            await work.lines("create", {"name": name, "image": "busybox"})
        with pytest.raises((errors.UsageError, errors.NotFound)):
            work.name = name
            await work.lines("pack", {})
    with pytest.raises((errors.UsageError, errors.NotFound)):
        await work.running.user.request("POST", "/api/environments/..%2Fx/pack")


async def test_without_an_engine_it_says_so_and_the_rest_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: docker.DockerClient, busybox: str, saved: bytes
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    async with running_host(tmp_path) as running:
        work = Work(running, engine, tmp_path / "shared" / "hakuriver-containers")
        await eventually(lambda: "no Docker engine" in str(running.host.environments.engine.unavailable))
        for route, body in (("pack", {}), ("create", {"name": work.name, "image": busybox})):
            with pytest.raises(errors.Unreachable, match="no Docker engine") as refused:
                await work.lines(route, body)
            assert "start the Docker engine" in refused.value.hint
        for method, route in (("POST", "start"), ("POST", "stop"), ("DELETE", "delete")):
            with pytest.raises((errors.Unreachable, errors.NotFound)):
                await work.ask(method, route)
        assert (await work.take(saved))["current"], "an import needs no engine"
        assert (await work.ask("GET", "environment"))["container"] == "unknown"
