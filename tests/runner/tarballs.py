"""Versions of an environment for tests, and a host that has their tarballs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tarfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import docker

from hakuriver.environments import tarball_name
from hakuriver.nodewire import EnvironmentRef
from hakuriver.paths import host_path
from tests import images
from tests.runner.peer import Host


class Version:
    """A packed environment: busybox with a file ``/marker`` and some ballast, as an engine saves it."""

    def __init__(
        self, engine: docker.DockerClient, name: str, version: int, marker: str, ballast: bytes = b""
    ) -> None:
        made = engine.api.create_container(images.busybox(engine), ["true"])["Id"]
        try:
            engine.api.put_archive(made, "/", _tar({"marker": marker.encode(), "ballast": ballast}))
            image = str(engine.api.commit(made)["Id"])
        finally:
            engine.api.remove_container(made)
        try:
            self.data = b"".join(engine.api.get_image(image))
        finally:
            engine.api.remove_image(image)
        self.ref = EnvironmentRef(
            name=name,
            version=version,
            sha256=hashlib.sha256(self.data).hexdigest(),
            size=len(self.data),
            image=image,
        )

    @property
    def path(self) -> str:
        """Where its bytes are on the host."""
        return host_path("tarball", name=self.ref.name, version=self.ref.version)

    def order(self, *, pinned: bool = False) -> dict[str, Any]:
        """What an attempt that runs in it is ordered with."""
        name = f"{self.ref.name}@{self.ref.version}" if pinned else self.ref.name
        return {
            "executor": "docker",
            "container": name,
            "environment": self.ref,
            "image": "x",
            "memory": 2**26,
        }

    def share(self, folder: Path, data: bytes | None = None) -> Path:
        """Put its tarball, or other bytes under its name, into shared storage."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / tarball_name(self.ref.name, self.ref.version)
        path.write_bytes(self.data if data is None else data)
        return path


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


class TarballHost(Host):
    """``served``: what was asked for, and from which byte on. ``cut``: bytes after which each answer breaks
    off; ``hold``: bytes after which it waits until ``go``."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.served: list[tuple[str, int]] = []
        self.cut: int | None = None
        self.away = False  # answer 503 to who wants a tarball
        self.hold: int | None = None
        self.go = threading.Event()
        super().__init__()

    def offer(self, version: Version, data: bytes | None = None) -> None:
        self.files[version.path] = version.data if data is None else data

    def starts(self, version: Version) -> list[int]:
        """The first bytes that were asked for."""
        return [start for path, start in self.served if path == version.path]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        host = self

        class Handler(super()._handler()):  # type: ignore[misc]
            def do_GET(self) -> None:
                found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))
                assert found is not None
                start = int(found[1])
                with host.changed:
                    host.served.append((self.path, start))
                    data = None if host.away else host.files.get(self.path)
                    host.changed.notify_all()
                if data is None:
                    self.send_response(503 if host.away else 404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if "Range" in self.headers else 200)
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self._send(data[start:])

            def _send(self, data: bytes) -> None:
                for place in (host.hold, host.cut):
                    if place is not None and place < len(data):
                        self.wfile.write(data[:place])
                        self.wfile.flush()
                        if place == host.hold:
                            host.go.wait(60)
                            data = data[place:]
                            continue
                        self.close_connection = True
                        return
                self.wfile.write(data)

        return Handler
