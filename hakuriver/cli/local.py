"""What can be known of a cluster of this machine without asking it."""

from __future__ import annotations

import fcntl
import http.client
import os
import shlex
import signal
import time
from pathlib import Path

from hakuriver import endpoint, statedir
from hakuriver.errors import Unreachable
from hakuriver.statedir import Layout

STOP_DEADLINE = 25.0
"""Seconds a supervisor has to stop both daemons."""


def supervised(layout: Layout) -> bool:
    """Whether a supervisor runs: it holds its lock for as long as it lives."""
    return locked(layout.lock)


def locked(path: Path) -> bool:
    """Whether some process holds an exclusive lock on a file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when none runs."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return None
    state, *facts = text.rpartition(")")[2].split()
    return None if state == "Z" else int(facts[18])


def supervisor_pid(layout: Layout) -> int | None:
    """The pid of the supervisor, only if it is certainly that one: lock held, and started when it said."""
    noted = endpoint.read_cluster(layout).get("supervisor") or {}
    pid = noted.get("pid")
    if isinstance(pid, int) and supervised(layout) and start_ticks(pid) == noted.get("started"):
        return pid
    return None


def terminate_supervisor(layout: Layout, patience: float) -> bool:
    """Ask the supervisor to end, which ends the daemons; whether it did within ``patience`` seconds."""
    pid = supervisor_pid(layout)
    if pid is None:
        return not supervised(layout)
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if supervisor_pid(layout) == pid:  # still that one now that the descriptor holds it
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)
    give_up = time.monotonic() + patience
    while supervised(layout):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


def explained(found: endpoint.Endpoint, error: Unreachable) -> Unreachable:
    """Why the host didn't answer, as far as this machine can tell; ``error`` itself where it can't."""
    if not isinstance(error.__cause__, OSError | http.client.HTTPException) or found.state is None:
        return error
    root = found.state.root.parent
    if supervised(found.state):
        return Unreachable(
            f"{error.message}; its supervisor is there",
            hint=f"the host's log is {found.state.host / 'host.log'}",
        )
    default = root == statedir.default_state_dir()
    start = "hakuriver up" if default else f"hakuriver up --state-dir {shlex.quote(str(root))}"
    return Unreachable(f"the cluster in {root} is not running", hint=f"{start} starts it", code="not_running")
