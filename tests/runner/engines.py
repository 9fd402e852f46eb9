"""A Docker engine of a test's own, to stop and to kill: the machine's own engine is never touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import docker
from docker.errors import APIError, DockerException

from tests.runner.peer import eventually


class OwnEngine:
    """A dockerd with folders, socket, containerd and network namespace of its own. Needs root.

    Never in the namespace of the machine: an engine without a bridge removes the other engine's bridge.
    """

    def __init__(self, *flags: str, environ: Mapping[str, str] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="hk-engine-"))  # short: its sockets lie deep inside
        self._flags = flags
        self._environ = dict(environ or os.environ)
        self._process: subprocess.Popen[bytes] | None = None
        (self._folder / "daemon.json").write_text("{}")

    @property
    def url(self) -> str:
        return f"unix://{self._folder}/docker.sock"

    @property
    def folder(self) -> Path:
        """Everything that is its own; ``data`` is what it stores."""
        return self._folder

    @property
    def client(self) -> docker.DockerClient:
        return docker.DockerClient(self.url, timeout=30)

    def start(self) -> OwnEngine:
        for stale in ("pid", "exec/containerd/containerd.pid"):
            (self._folder / stale).unlink(missing_ok=True)
        words = ["unshare", "--net", "dockerd", "--config-file", str(self._folder / "daemon.json")]
        words += ["--data-root", str(self._folder / "data"), "--exec-root", str(self._folder / "exec")]
        words += ["--pidfile", str(self._folder / "pid"), "-H", self.url, "--bridge=none", "--iptables=false"]
        words += ["--ip6tables=false", "--ip-forward=false", "--ip-masq=false", *self._flags]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environ
            )
        eventually(self._answers, timeout=60, what="the engine's start")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
        try:
            with contextlib.closing(self.client) as client:
                return bool(client.ping())
        except DockerException:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)

    def send(self, number: int) -> None:
        """Freeze it or let it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def wipe(self) -> None:
        """Remove everything that it holds and stop it."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        with contextlib.closing(self.client) as client, contextlib.suppress(DockerException):
            for each in client.api.containers(all=True):
                with contextlib.suppress(APIError):  # the engine may be removing it at this moment
                    client.api.remove_container(each["Id"], force=True)
        self.stop()
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self._folder / "exec/containerd/containerd.pid").read_text()), signal.SIGTERM)
        time.sleep(0.2)  # its containerd lets go of its mounts
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            where = line.split()[1]
            if where.startswith(f"{self._folder}/"):
                subprocess.run(["umount", "--lazy", where], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)
