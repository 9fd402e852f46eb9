"""Whether what is started here outlives the login: some machines end all of a user's processes with it."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ASK = [
    "loginctl",
    "show-user",
    *(f"--property=Kill{name}" for name in ("UserProcesses", "OnlyUsers", "ExcludeUsers")),
]
_TIMEOUT = 2.0
WARNING = (
    "when you log out, this machine ends all that you started, this cluster and its tasks too "
    "(KillUserProcesses=yes in logind.conf)\n"
    "  what stays: loginctl enable-linger; hakuriver down; systemd-run --user --scope hakuriver up"
)


def ends_at_logout(cgroup: str, manager: str, user: str) -> bool:
    """Whether processes in this control group end with the session of ``user``; ``manager`` are properties of
    systemd-logind, one a line (pure)."""
    found = dict(line.split("=", 1) for line in manager.splitlines() if "=" in line)
    if not re.search(r"/session-[^/]*\.scope(/|$)", cgroup, re.MULTILINE):
        return False
    if found.get("KillUserProcesses") != "yes" or user in found.get("KillExcludeUsers", "").split():
        return False
    only = found.get("KillOnlyUsers", "").split()
    return not only or user in only


def warning(environ: Mapping[str, str], cgroup: Path = Path("/proc/self/cgroup")) -> str:
    """What to say to somebody who leaves a cluster behind; empty where it stays."""
    try:
        group = cgroup.read_text("utf-8", errors="replace")
        if "/session-" not in group:
            return ""
        done = subprocess.run(
            _ASK, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, env=environ, check=False
        )
        user = getpass.getuser()
    except (OSError, KeyError, subprocess.TimeoutExpired):  # no systemd here, or a user without a name
        return ""
    return WARNING if ends_at_logout(group, done.stdout.decode(errors="replace"), user) else ""
