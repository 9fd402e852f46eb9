"""A machine of a test's own whose process 1 is systemd: a container that sees this machine's programs, and
its control groups, so that limits hold. And runners that live in it as services."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import docker
from docker.errors import ImageNotFound
from docker.models.containers import Container

from tests.runner.peer import eventually

REPOSITORY = "hakuriver-test/systemd"
USER, UID = "alice", 1000
OTHER, OTHER_UID = "bob", 1001
_ROOT = Path(__file__).resolve().parents[2]
_GROUPS = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "systemd", "unified")
_FOLDERS = (
    *(
        "etc",
        "etc/systemd",
        "etc/systemd/system",
        "etc/pam.d",
        "etc/sudoers.d",
        "home",
        "usr",
        "var",
        "var/lib",
    ),
    *("var/lib/systemd", "var/lib/systemd/linger", "var/log", "run", "root", "proc", "sys", "dev", "tmp"),
)
_PERMIT = "".join(f"{kind} sufficient pam_permit.so\n" for kind in ("auth", "account", "password", "session"))
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    f"{USER}:x:{UID}:{UID}::/home/{USER}:/bin/sh\n{OTHER}:x:{OTHER_UID}:{OTHER_UID}::/home/{OTHER}:/bin/sh\n",
    "etc/group": f"root:x:0:\n{USER}:x:{UID}:\n{OTHER}:x:{OTHER_UID}:\ncrew:x:2000:{OTHER}\n",
    "etc/sudoers": "root ALL=(ALL) NOPASSWD: ALL\n@includedir /etc/sudoers.d\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    **dict.fromkeys(("etc/pam.d/other", "etc/pam.d/sudo", "etc/pam.d/systemd-user"), _PERMIT),
    # nothing but what units need
    "etc/systemd/system/lab.target": "[Unit]\nRequires=basic.target\nAfter=basic.target\n",
    # what a login does, without a login
    "etc/systemd/system/user-runtime-dir@.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
    "ExecStart=install -d -m 700 -o %i /run/user/%i\n",
    "etc/systemd/system/user@.service.d/login.conf": "[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n",
}
_LINKS = {
    "etc/systemd/system/default.target": "lab.target",
    "etc/systemd/system/systemd-machine-id-commit.service": "/dev/null",
    "etc/systemd/system/tmp.mount": "/dev/null",  # it would hide what is shared
}


class Machine:
    """A running machine. ``shared``: a folder that it and this one see under one path, by default one that
    goes with it; ``capable``: whether it can give anybody a network of its own."""

    def __init__(
        self, engine: docker.DockerClient, shared: Path | None = None, *, capable: bool = True
    ) -> None:
        self._own = shared is None
        self.shared = shared or Path(tempfile.mkdtemp(prefix="hk-machine-"))
        self.shared.chmod(0o755)  # other users live there, too
        self._numbers = count()
        self._api = engine.api
        self._container: Container = engine.containers.run(
            _image(engine),
            detach=True,
            network_mode="host",
            mem_limit="2g",
            cap_add=["SYS_ADMIN"] if capable else [],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            cgroupns="host",
            stop_signal="SIGRTMIN+3",
            tmpfs={"/run": "", "/run/lock": "", "/tmp": "mode=1777"},
            volumes=_volumes(self.shared),
        )
        try:
            eventually(self._is_up, what="the start of systemd")
        except BaseException:
            self.close()
            raise

    def _is_up(self) -> bool:
        code, said = self.try_run("systemctl", "is-system-running")
        assert said.strip() != "degraded", self.run("systemctl", "--failed")
        return code == 0

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._container.remove(force=True, v=True)
        if self._own:
            shutil.rmtree(self.shared, ignore_errors=True)

    def try_run(self, *argv: str) -> tuple[int, str]:
        """Exit code, and output with errors. That goes through a file: an engine under load loses some."""
        file = self.shared / f"output{next(self._numbers)}"
        done: Any = self._container.exec_run(["sh", "-c", '"$@" >"$0" 2>&1', str(file), *argv])
        output = file.read_text(errors="replace")
        file.unlink()
        return int(done.exit_code), output

    def run(self, *argv: str) -> str:
        """The output of a command that must succeed."""
        code, output = self.try_run(*argv)
        assert code == 0, f"{' '.join(argv)}: {output}"
        return output

    def units(self, pattern: str = "hakuriver-*-*-*.service") -> list[str]:
        """The services that are loaded, failed ones included."""
        words = ("--all", "--plain", "--no-legend", "--full", "--type=service", "--", pattern)
        return [line.split()[0] for line in self.run("systemctl", "list-units", *words).splitlines()]

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", "--", unit).strip()

    def linger(self) -> None:
        """Start the manager of USER as ``loginctl enable-linger`` does."""
        self.run("touch", f"/var/lib/systemd/linger/{USER}")
        self.run("systemctl", "start", f"user@{UID}.service")

    def spawn(self, argv: Sequence[str], environ: Mapping[str, str], log: Path) -> Inhabitant:
        """Start a command there that writes to ``log``, without systemd's help."""
        words = ["sh", "-c", 'exec "$@" >>"$0" 2>&1 </dev/null', str(log), *argv]
        started = self._api.exec_create(self._container.id, words, environment=dict(environ))["Id"]
        self._api.exec_start(started, detach=True)
        pid = eventually(lambda: int(self._api.exec_inspect(started)["Pid"]), what=f"the pid of {argv[0]}")
        return Inhabitant(pid)

    @property
    def init(self) -> int:
        """The number that its process 1 has here."""
        self._container.reload()
        return int(self._container.attrs["State"]["Pid"])

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """A signal to a process by its number there."""
        self.run("kill", f"-{number}", str(pid))

    def parent(self, pid: int) -> int:
        return int(self.run("ps", "-o", "ppid=", "-p", str(pid)))

    def pids(self, mark: str) -> list[int]:
        """Processes with a text in their environment."""
        found = self.try_run("sh", "-c", f"grep -laz -- {mark} /proc/[0-9]*/environ 2>/dev/null")[1]
        return [int(line.split("/")[2]) for line in found.splitlines()]


class Inhabitant:
    """A process of a machine, used as a Popen is. ``pid``: its number here. Needs root."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)
        weakref.finalize(self, os.close, self._handle)

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            signal.pidfd_send_signal(self._handle, number)

    def poll(self) -> int | None:
        """None while it lives; how it ended nobody here can know."""
        return 0 if self._ended(0.0) else None

    def wait(self, timeout: float) -> int:
        """Raises TimeoutExpired."""
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return 0

    def _ended(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(timeout * 1000))


def _image(engine: docker.DockerClient) -> str:
    """The image of what isn't seen of this machine: made once, named after what is in it."""
    data = _tar()
    tag = hashlib.sha256(data).hexdigest()[:12]
    try:
        engine.images.get(f"{REPOSITORY}:{tag}")
    except ImageNotFound:
        changes = ["ENV container=docker", 'CMD ["/lib/systemd/systemd"]']
        engine.api.import_image_from_data(data, repository=REPOSITORY, tag=tag, changes=changes)
    return f"{REPOSITORY}:{tag}"


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in _FOLDERS:
            _entry(tar, name, tarfile.DIRTYPE, 0o755)
        for name, uid in ((USER, UID), (OTHER, OTHER_UID)):
            _entry(tar, f"home/{name}", tarfile.DIRTYPE, 0o700, owner=uid)
        for name, text in _FILES.items():
            _entry(tar, name, tarfile.REGTYPE, 0o440 if "sudoers" in name else 0o644, data=text.encode())
        for name in ("bin", "sbin", "lib", "lib32", "lib64"):
            if Path(f"/{name}").is_symlink():  # into /usr, as this machine has it
                _entry(tar, name, tarfile.SYMTYPE, 0o777, link=f"usr/{name}")
        for name, link in _LINKS.items():
            _entry(tar, name, tarfile.SYMTYPE, 0o777, link=link)
    return buffer.getvalue()


def _entry(
    tar: tarfile.TarFile,
    name: str,
    kind: bytes,
    mode: int,
    *,
    owner: int = 0,
    data: bytes = b"",
    link: str = "",
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname, entry.size = kind, mode, link, len(data)
    entry.uid = entry.gid = owner
    tar.addfile(entry, io.BytesIO(data))


def _volumes(shared: Path) -> dict[str, dict[str, str]]:
    read_only = {Path("/usr"), _ROOT, Path(sys.prefix), Path(sys.base_prefix).resolve()}
    read_only |= {path for path in (Path("/etc/machine-id"),) if path.exists()}
    found = {str(path): {"bind": str(path), "mode": "ro"} for path in read_only}
    if (_GROUPS / "cgroup.controllers").exists():  # version 2
        groups = [_GROUPS]
    else:  # never the folder of all of them: systemd would remount it, and for everybody
        groups = [_GROUPS / name for name in _CONTROLLERS if (_GROUPS / name).is_dir()]
    for path in (shared, *groups):
        found[str(path)] = {"bind": str(path), "mode": "rw"}
    return found
