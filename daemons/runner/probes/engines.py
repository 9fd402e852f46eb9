"""The engines of this machine that start tasks, and what they can."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PRIVATE_PIDS_SINCE = 257
_PATIENCE = 5.0  # seconds for each tool to answer
_BOOTED = Path("/run/systemd/system")
_LINGER = Path("/var/lib/systemd/linger")


@dataclass(frozen=True, slots=True)
class Systemd:
    """What systemd there is (version 0: none), and the way in which this runner may start units.

    ``reason`` says why there is no way (``how`` is None then), else it is empty.
    """

    version: int
    how: Literal["root", "sudo", "user"] | None
    reason: str

    @property
    def private_pids(self) -> bool:
        """Whether units can have process ids of their own."""
        return self.version >= PRIVATE_PIDS_SINCE

    def __str__(self) -> str:
        way = {"root": "as root", "sudo": "through sudo", "user": "as a user's manager"}
        pids = "" if self.private_pids else ", no private process ids"
        return f"{self.version} {way[self.how]}{pids}" if self.how else str(self.version or "")


def systemd(*, booted: Path = _BOOTED, linger: Path = _LINGER, uid: int | None = None) -> Systemd:
    """Look for systemd as process 1, and a way in for a user (by default this one): root, else sudo without a
    password, else the user's own manager where it outlives logins. Starts processes: once, in a thread."""
    found = re.match(r"systemd (\d+)", _answer("systemctl", "--version") or "")
    if found is None:
        return Systemd(0, None, "systemd isn't installed")
    version = int(found[1])
    if not booted.is_dir():
        return Systemd(version, None, "this machine wasn't started by systemd (it isn't process 1)")
    user = os.geteuid() if uid is None else uid
    if user == 0:
        return Systemd(version, "root", "")
    if all(_answer("sudo", "-n", tool, "--version") is not None for tool in ("systemd-run", "systemctl")):
        return Systemd(version, "sudo", "")
    return _user(version, linger, _user_name(user))


def _user(version: int, linger: Path, name: str) -> Systemd:
    if not (linger / name).exists():
        return Systemd(
            version,
            None,
            f"this runner is neither root nor may it use sudo -n, and units of {name} would end with the last"
            f" login (loginctl enable-linger {name})",
        )
    if _answer("systemctl", "--user", "show", "--property=Version", env=user_environment()) is None:
        return Systemd(version, None, f"the systemd manager of {name} doesn't answer")
    return Systemd(version, "user", "")


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def user_environment() -> Mapping[str, str]:
    """This process's environment, with the place of its user's manager also where no login set it."""
    return {"XDG_RUNTIME_DIR": f"/run/user/{os.geteuid()}", **os.environ}


def _answer(*argv: str, env: Mapping[str, str] | None = None) -> str | None:
    """What a tool says; None when it isn't there, fails, or doesn't answer in time."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=True, env=env
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Docker:
    """A Docker engine: its version, and how it says that it gives NVIDIA devices to containers.

    ``hook`` is the oldest way, which an engine doesn't tell of; None means that none was found.
    """

    version: str
    nvidia: Literal["cdi", "runtime", "hook"] | None

    def __str__(self) -> str:
        return f"{self.version}, {f'NVIDIA by {self.nvidia}' if self.nvidia else 'no NVIDIA support found'}"


def docker(info: Mapping[str, Any]) -> Docker:
    """From the answer of ``docker info``."""
    version = str(info.get("ServerVersion") or "unknown")
    devices = [str(each.get("ID", "")) for each in info.get("DiscoveredDevices") or ()]
    if any(each.startswith("nvidia.com/gpu") for each in devices):
        return Docker(version, "cdi")
    if "nvidia" in (info.get("Runtimes") or {}):
        return Docker(version, "runtime")
    return Docker(version, "hook" if shutil.which("nvidia-container-runtime-hook") else None)
