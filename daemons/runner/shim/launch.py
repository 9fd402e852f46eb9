"""From an order to a running task: fork, store the pid, and only then exec."""

from __future__ import annotations

import json
import os
import selectors
import time
from typing import Any

from daemons.runner.shim.keeper import Keeper
from daemons.runner.shim.limit import fresh
from daemons.runner.shim.proc import boot_id, boottime, process
from daemons.runner.shim.status import Status, store_status
from daemons.runner.shim.task import become_task


def launch(selector: selectors.BaseSelector, folder: int, order: dict[str, Any], lease: float) -> Keeper:
    """Fork the task, as the shim; it executes only after its pid is stored. ``lease``: until when it may run
    as far as is known, if it is fenced."""
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC) if order.get("stdin") else (None, None)
    pid = os.fork()
    if pid == 0:
        _close(go_write, error_read, stdin_write)
        become_task(folder, order, go_read, error_write, stdin_read)
    _close(go_read, error_write, stdin_read)
    status = _started(pid, lease)
    store_status(folder, status, durable=False)
    os.write(go_write, b"g")
    os.close(go_write)
    failure = _read_all(error_read)  # ends with the exec, or with what failed before it
    if failure:
        status["error"] = json.loads(failure)
    return Keeper(selector, folder, status, order, shim=os.getpid(), stdin=stdin_write)


def _started(pid: int, lease: float) -> Status:
    """The status of a task from its fork on: every field that it will ever have."""
    facts = process(pid)
    return {
        "phase": "started",
        "boot": boot_id(),
        "pid": pid,
        "start": facts[3] if facts else 0,
        "started_at": time.time(),
        "started_boot": boottime(),
        "raw": None,
        "ended_at": None,
        "ended_boot": None,
        "oom": False,
        "oom_events": 0,
        "error": None,
        "lease": lease,
        "fenced": False,
        "no_lease_for": 0.0,
        "limit": fresh(boottime()),
    }


def _read_all(pipe: int) -> bytes:
    """Everything until the other end is closed; closes this one."""
    found = b""
    while part := os.read(pipe, 65536):
        found += part
    os.close(pipe)
    return found


def _close(*pipes: int | None) -> None:
    for each in pipes:
        if each is not None:
            os.close(each)
