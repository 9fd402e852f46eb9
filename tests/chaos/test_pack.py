"""Packs that are killed, run out of room or hang: nobody ever sees half a tarball, nothing is left behind."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import secrets
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError

from hakuriver import environments
from hakuriver.errors import HakuRiverError, NotFound, StorageFull, Unreachable, from_json
from hakuriver.paths import host_path
from tests.chaos.lab import Lab, lab
from tests.chaos.test_disk import small
from tests.chaos.test_shared_dir import SERVER, mounted
from tests.waiting import until

LONG = os.environ.get("CHAOS") == "long"
KILLS = 200 if LONG else 6
BALLAST = 8 * 2**20
pytestmark = [pytest.mark.docker, pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root")]


@dataclass
class Reader:
    """A node that looks all the time: whatever has a tarball's name must be whole, and have its sidecar."""

    folder: Path
    seen: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    looks: int = 0

    def look(self) -> None:
        for path in sorted(self.folder.glob("*.tar")):
            try:
                stated = path.stat()
                key = f"{path.name} {stated.st_ino} {stated.st_size}"
                beside = json.loads(path.with_name(path.name + environments.SIDECAR).read_bytes())
                if key in self.seen:
                    continue
                self.seen[key] = hashlib.sha256(path.read_bytes()).hexdigest()
                if (beside["size"], beside["sha256"]) != (stated.st_size, self.seen[key]):
                    self.wrong.append(f"{key} is not what its sidecar says: {beside}")
            except (OSError, ValueError) as error:
                if path.exists():  # what was too old goes while we look
                    self.wrong.append(f"{path.name}: {error!r}")
        self.looks += 1


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Reader]:
    """A reader at work in a thread."""
    reader, over = Reader(folder), threading.Event()

    def run() -> None:
        while not over.wait(0.001):
            reader.look()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield reader
    finally:
        over.set()
        thread.join()


class Packed:
    """An environment with some bytes that can't be guessed in it."""

    def __init__(self, made: Lab, engine: docker.DockerClient, image: str, ballast: int) -> None:
        self.name = f"c{secrets.token_hex(4)}"
        self.made = made
        self.engine = engine
        self.folder = made.folder / "shared" / "hakuriver-containers"
        until(self._create(image), "a container", seconds=60)
        self.change(ballast)

    def _create(self, image: str) -> Any:
        def once() -> bool:
            try:
                self.work("create", {"name": self.name, "image": image})
            except Unreachable:
                return False
            return True

        return once

    def change(self, ballast: int) -> None:
        """Other bytes in the container."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            entry = tarfile.TarInfo("ballast")
            entry.size = ballast
            tar.addfile(entry, io.BytesIO(os.urandom(ballast)))
        self.engine.api.put_archive(environments.container_name(self.name), "/", buffer.getvalue())

    def work(self, route: str, body: object) -> dict[str, Any]:
        """Do it to its end; raises what its last line says."""
        path = host_path(route) if route == "create" else host_path(route, name=self.name)
        last: dict[str, Any] = {}
        with self.made.client.open("POST", path, body=body, timeout=60) as answer:
            for line in answer:
                last = json.loads(line)
        if last.get("type") == "error":
            raise from_json(last["error"]["status"], {"error": last["error"]})
        if last.get("type") != "done":
            raise Unreachable("it broke off")
        return last

    def pack(self) -> dict[str, Any]:
        found: dict[str, Any] = self.work("pack", {"note": "x"})["version"]
        return found

    def ready(self) -> bool:
        """Whether the host is there and has found the container."""
        try:
            shown = self.made.client.request("GET", host_path("environment", name=self.name), timeout=5)
        except (Unreachable, NotFound):
            return False
        return bool(shown["container"] == "running")

    def versions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.made.ask("GET", host_path("versions", name=self.name))
        return found

    def tags(self) -> set[str]:
        listed = self.engine.api.images(filters={"reference": f"hakuriver/{self.name}"})
        return {tag.rpartition(":")[2] for image in listed for tag in image["RepoTags"] or ()}

    def in_order(self) -> bool:
        """Whether the folder, the database and the engine's tags say the same."""
        versions = self.versions()
        names = [environments.tarball_name(self.name, each["version"]) for each in versions]
        files = {name + end for name in names for end in ("", environments.SIDECAR)}
        left = {path.name for path in self.folder.iterdir()} - files
        missing = files - {path.name for path in self.folder.iterdir()}
        unknown = self.tags() - {"base", *(str(each["version"]) for each in versions)}
        return not left and not missing and not unknown

    def remove(self) -> None:
        with contextlib.suppress(APIError):
            self.engine.api.remove_container(environments.container_name(self.name), force=True)
        for tag in self.tags():
            self.engine.api.remove_image(f"hakuriver/{self.name}:{tag}")


@contextlib.contextmanager
def packed(made: Lab, engine: docker.DockerClient, image: str, ballast: int) -> Iterator[Packed]:
    found = Packed(made, engine, image, ballast)
    try:
        yield found
    finally:
        found.remove()


def _pack_and_kill(found: Packed, source: random.Random, seconds: float, phase: int) -> bool:
    """Pack, and kill the host: at any moment of it (0), when it writes (1), when it shows what it wrote (2).

    Whether the pack was answered before.
    """
    answered = threading.Event()
    until(found.ready, "the host is back", seconds=60)

    def pack() -> None:
        with contextlib.suppress(HakuRiverError):
            found.pack()
            answered.set()

    before = set(found.folder.iterdir())
    packing = threading.Thread(target=pack)
    packing.start()

    def appeared(pattern: str) -> bool:
        return bool(set(found.folder.glob(pattern)) - before) or not packing.is_alive()

    if phase:
        until(partial(appeared, ".*.part" if phase == 1 else "*.json"), "it appears", every=0.001)
    time.sleep(source.uniform(0, (seconds, 0.2, 0.1)[phase]))
    found.made.host.kill9()
    packing.join()
    found.made.host.start()
    return answered.is_set()


@pytest.mark.timeout(3600 if LONG else 300)
def test_half_a_tarball_is_never_seen_and_nothing_is_left(
    tmp_path: Path, engine: docker.DockerClient, busybox: str
) -> None:
    seed = int(os.environ.get("SEED") or time.time())
    print(f"SEED={seed}")
    source = random.Random(seed)
    with lab(tmp_path / "lab", seed, nodes=0) as made, packed(made, engine, busybox, BALLAST) as found:
        with reading(found.folder) as reader:
            started = time.monotonic()
            first = found.pack()
            seconds = time.monotonic() - started
            answered = sum(_pack_and_kill(found, source, seconds, number % 3) for number in range(KILLS))
            until(found.ready, "the host is back", seconds=60)
            until(found.in_order, "the next start cleans up", seconds=60)
            last = found.pack()
        assert reader.wrong == []
        assert reader.looks > KILLS
        assert found.in_order()
        assert last["version"] > first["version"]
        assert last["current"]
        assert len(found.versions()) <= 3
    print(f"{made.host.kills} kills, {answered} packs answered before, {len(reader.seen)} tarballs seen")


def test_a_full_disk_leaves_nothing(tmp_path: Path, engine: docker.DockerClient, busybox: str) -> None:
    folder = tmp_path / "lab"
    with (
        small(folder / "shared"),
        lab(folder, seed=1, nodes=0) as made,
        packed(made, engine, busybox, 24 * 2**20) as found,
    ):
        with pytest.raises(StorageFull, match=r"the disk of .* is full") as refused:
            found.pack()
        assert "nothing was kept" in refused.value.hint
        assert list(found.folder.iterdir()) == []
        assert (found.versions(), found.tags()) == ([], set())
        found.change(2**20)
        found.pack()
        assert found.in_order()


@pytest.mark.skipif(
    not shutil.which("sshfs") or not Path(SERVER).exists(), reason="needs sshfs and sftp-server"
)
def test_a_shared_folder_that_hangs(tmp_path: Path, engine: docker.DockerClient, busybox: str) -> None:
    folder = tmp_path / "lab"
    with (
        mounted(tmp_path / "remote", folder / "shared") as server,
        lab(folder, seed=2, nodes=0) as made,
        packed(made, engine, busybox, 2**20) as found,
    ):
        server.send_signal(signal.SIGSTOP)
        with pytest.raises(Unreachable, match="doesn't answer"):
            found.pack()
        shown = made.client.request("GET", host_path("environment", name=found.name), timeout=5)
        assert (shown["versions"], shown["work"]) == (0, None)
        server.send_signal(signal.SIGCONT)
        found.pack()
        until(found.in_order, "it goes on", seconds=30)
