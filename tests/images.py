"""Images for tests, built from this machine's own files: no registry, nothing downloaded."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import docker
from docker.errors import ImageNotFound

BUSYBOX = "hakuriver-test/busybox:1"
SHELLLESS = "hakuriver-test/shellless:1"
PYTHON = f"hakuriver-test/python:{sys.version_info.major}.{sys.version_info.minor}"
HAKURUN = (
    *("__future__", "typing", "signal", "time", "itertools", "math", "runpy", "zipfile", "dataclasses"),
    *("tempfile", "shutil", "subprocess", "shlex"),
)
"""What hakurun takes from the standard library, besides what those take."""
NVIDIA_LIBRARIES = "/usr/lib/nvidia"
_STATIC = Path("/bin/busybox")


def busybox(engine: docker.DockerClient) -> str:
    """The name of a 2 MB image with a shell and the usual tools; needs Debian's busybox-static."""
    return _import(engine, BUSYBOX, lambda: _tar("bin", _applets()))


def shellless(engine: docker.DockerClient) -> str:
    """An image that has ``/tool/busybox`` and no ``/bin/sh``; its entry point is ``/tool/busybox``."""
    return _import(engine, SHELLLESS, lambda: _tar("tool", {}), 'ENTRYPOINT ["/tool/busybox"]')


def python(engine: docker.DockerClient) -> str:
    """The busybox image with as much of this Python as pynvml, json and hakurun need. It looks for the
    libraries of a driver in NVIDIA_LIBRARIES."""
    links = {"bin/python3": str(Path(sys.executable).resolve())}
    return _import(
        engine,
        PYTHON,
        lambda: _tar("bin", _applets() | links, _python("pynvml", "json", *HAKURUN)),
        f"ENV LD_LIBRARY_PATH={NVIDIA_LIBRARIES}",
    )


def _applets() -> dict[str, str]:
    listed = subprocess.run([_STATIC, "--list"], capture_output=True, text=True, check=True)
    return {f"bin/{name}": "busybox" for name in listed.stdout.split() if name != "busybox"}


def _python(*modules: str) -> dict[Path, Path]:
    """Places in an image and what lies there: this Python, some modules, and what they need."""
    code = f"import sys; sys.path += {sys.path!r}; import {', '.join(modules)}\n"
    code += "for name, each in list(sys.modules.items()): print(name, getattr(each, '__file__', None) or '')"
    binary, standard = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    done = subprocess.run([binary, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = [line.partition(" ") for line in done.stdout.splitlines()]
    files = {Path(file) for _, _, file in loaded if file}
    own = [standard / f"{name.replace('.', '/')}.py" for name, _, _ in loaded]
    files |= {file for file in own if file.is_file()}  # some put another module in their place when loaded
    linked = [binary, *(each for each in files if each.suffix == ".so")]
    shown = subprocess.run(["ldd", *linked], capture_output=True, text=True, check=True).stdout
    libraries = {Path(path) for path in re.findall(r"(/\S+) \(0x", shown)}
    found = {path if path.is_relative_to(standard) else standard / path.name: path for path in files}
    return found | {path: path for path in (binary, *libraries)}


def _import(engine: docker.DockerClient, tag: str, make: Callable[[], bytes], *changes: str) -> str:
    try:
        engine.images.get(tag)
    except ImageNotFound:
        repository, _, version = tag.partition(":")
        engine.api.import_image_from_data(
            make(), repository=repository, tag=version, changes=["ENV PATH=/bin", *changes]
        )
    return tag


def _tar(folder: str, links: Mapping[str, str], files: Mapping[Path, Path] | None = None) -> bytes:
    """Busybox in a folder, links, and files by their places."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (folder, "etc", "tmp", "root", "proc", "sys", "dev", "var"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        _file(tar, f"{folder}/busybox", _STATIC.read_bytes(), 0o755)
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for place, path in (files or {}).items():
            _file(tar, str(place).lstrip("/"), path.read_bytes(), 0o755)
        _file(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n", 0o644)
        _file(tar, "etc/group", b"root:x:0:\nuser:x:1000:\n", 0o644)
    return buffer.getvalue()


def _file(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
