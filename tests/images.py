"""Images for tests, built from this machine's own busybox: no registry, nothing downloaded."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import docker
from docker.errors import ImageNotFound

BUSYBOX = "hakuriver-test/busybox:1"
SHELLLESS = "hakuriver-test/shellless:1"
_STATIC = Path("/bin/busybox")


def busybox(engine: docker.DockerClient) -> str:
    """The name of a 2 MB image with a shell and the usual tools; needs Debian's busybox-static."""
    return _import(engine, BUSYBOX, _applets())


def shellless(engine: docker.DockerClient) -> str:
    """An image that has ``/tool/busybox`` and no ``/bin/sh``; its entry point is ``/tool/busybox``."""
    return _import(engine, SHELLLESS, [], entrypoint='["/tool/busybox"]')


def _applets() -> list[str]:
    listed = subprocess.run([_STATIC, "--list"], capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split() if name != "busybox"]


def _import(engine: docker.DockerClient, tag: str, applets: list[str], entrypoint: str = "") -> str:
    try:
        engine.images.get(tag)
    except ImageNotFound:
        changes = ["ENV PATH=/bin"] + ([f"ENTRYPOINT {entrypoint}"] if entrypoint else [])
        repository, _, version = tag.partition(":")
        engine.api.import_image_from_data(
            _tar("bin" if applets else "tool", applets), repository=repository, tag=version, changes=changes
        )
    return tag


def _tar(folder: str, applets: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (folder, "etc", "tmp", "root", "proc", "sys", "dev", "var"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        _file(tar, f"{folder}/busybox", _STATIC.read_bytes(), 0o755)
        for applet in applets:
            entry = tarfile.TarInfo(f"{folder}/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        _file(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n", 0o644)
        _file(tar, "etc/group", b"root:x:0:\nuser:x:1000:\n", 0o644)
    return buffer.getvalue()


def _file(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
