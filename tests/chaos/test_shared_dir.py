"""A shared folder that hangs: the node stays online, tasks end, and the copies come when it is back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.lab import lab
from tests.chaos.work import heard, reaches
from tests.waiting import until

SERVER = "/usr/lib/openssh/sftp-server"
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("sshfs") or not Path(SERVER).exists(),
    reason="mounts an sshfs: needs root, sshfs and sftp-server",
)


@contextmanager
def mounted(source: Path, point: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real sshfs mount over a socket pair; yields the server, which a test may freeze."""
    source.mkdir()
    point.mkdir(parents=True)
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        subprocess.Popen([SERVER], stdin=ours.fileno(), stdout=ours.fileno()) as server,
        subprocess.Popen(
            ["sshfs", "-f", "-o", "passive", f"host:{source}", str(point)],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
        ),
    ):
        until(lambda: str(point) in Path("/proc/self/mountinfo").read_text(), "mounted")
        try:
            yield server
        finally:
            server.send_signal(signal.SIGCONT)
            subprocess.run(["umount", "-l", str(point)], check=True)
            server.terminate()


def test_it_hangs_and_comes_back(tmp_path: Path) -> None:
    folder, remote = tmp_path / "lab", tmp_path / "remote"
    with (
        mounted(remote, folder / "shared") as server,
        lab(folder, seed=10, nodes=1) as made,
    ):
        command = ["sh", "-c", "echo first; sleep 1; echo second; exit 7"]
        body = {"command": command, "cores": 0, "workdir": "/"}
        before = made.submit(1, body, time.monotonic() + 30)
        reaches(made, before, "running")
        server.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        try:
            during = made.submit(2, body, time.monotonic() + 30)
            for task in (before, during):
                ended = reaches(made, task, "completed", "failed", "lost")
                assert (ended["state"], ended["exit_code"]) == ("failed", 7)
                assert made.log(task, "stdout") == b"first\nsecond\n"
            until(lambda: time.monotonic() > frozen + 4, "twice the timeout of a node")
            heard(made)
        finally:
            server.send_signal(signal.SIGCONT)
        for task in (before, during):
            copy = remote / "task_outputs" / f"{task}.out"
            until(partial(_is_whole, copy), "the copy comes", seconds=30)


def _is_whole(copy: Path) -> bool:
    return copy.exists() and copy.read_bytes() == b"first\nsecond\n"
