"""A container as the kernel sees it, so that no engine is needed to end it, and the engine for the rest."""

# ruff: noqa: PTH123, PTH208  (see proc.py)

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from daemons.runner.shim.proc import process

ENGINE_PATIENCE = 2.0  # seconds


def members(container: str) -> Iterator[tuple[int, int]]:
    """``(pid, start time)`` of every live process in the control groups of a container, below them included.

    An engine names them after the whole id, whatever the version and the driver, and nothing else is.
    """
    wanted = container.encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and wanted in _groups(int(name)):
            facts = process(int(name))
            if facts is not None and facts[0] not in "ZX":
                yield int(name), facts[3]


def _groups(pid: int) -> bytes:
    """A line ``number:controllers:path`` for each hierarchy; nothing when the process is gone."""
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            return file.read()
    except OSError:
        return b""


def thaw(pid: int, container: str) -> None:
    """Let a process of a paused container hear its KILL: in version 1 who is frozen doesn't even die."""
    for line in _groups(pid).decode(errors="replace").splitlines():
        _, controllers, path = line.split(":", 2)
        mount = _freezer() if "freezer" in controllers.split(",") else None
        while mount is not None and container in path:
            with contextlib.suppress(OSError), open(f"{mount}{path}/freezer.state", "w") as file:
                file.write("THAWED")
            path = path.rpartition("/")[0]


def _freezer() -> str | None:
    """Where the freezer of version 1 is mounted."""
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", "rb") as file:
        for line in file.read().decode(errors="replace").splitlines():
            left, _, right = line.partition(" - ")
            if right.startswith("cgroup ") and "freezer" in right.split()[-1].split(","):
                return left.split()[4]
    return None


def kill_by_engine(engine: str, container: str) -> int | None:
    """Ask the engine that listens at a path to kill a container, paused or not; the HTTP status of its
    answer, None when there is none: 204 it was told, 404 there is no such container, 409 it doesn't run."""
    path = f"/containers/{container}/kill"
    request = f"POST {path} HTTP/1.0\r\nHost: engine\r\nContent-Length: 0\r\n\r\n"
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(ENGINE_PATIENCE)
            client.connect(engine)
            client.sendall(request.encode())
            while b"\n" not in answer and (part := client.recv(4096)):
                answer += part
        return int(answer.split(None, 2)[1])
    except (OSError, ValueError, IndexError):
        return None
