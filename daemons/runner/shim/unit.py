"""The main process of a systemd unit: forks an attempt's shim, and keeps the task when that is killed."""

# ruff: noqa: PTH123  (see proc.py)

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
from typing import Any

from daemons.runner.shim.claim import CannotStart, inherit_attempt, read_order, write_never_ran
from daemons.runner.shim.keeper import Keeper
from daemons.runner.shim.launch import launch
from daemons.runner.shim.life import keep, take
from daemons.runner.shim.proc import be_reaper, process
from daemons.runner.shim.sockets import wake_on_child
from daemons.runner.shim.status import read_status

REFUSAL = "refused"  # in the attempt's folder: why the task was not started
REFUSED = 75  # exit code for that
_GROUPS = "/sys/fs/cgroup"


def main(path: str, name: str) -> int:
    """Run one attempt of a folder of attempts; 0 when its end is stored."""
    attempts = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir("/")
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the task; this ends with it
    be_reaper()
    pid = os.fork()
    if pid == 0:
        _live_as_shim(attempts, name)
    _, raw = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(raw)
    return code if code in (0, REFUSED) else _take_over(attempts, name)


def _live_as_shim(attempts: int, name: str) -> None:
    """The shim: never returns."""
    code = 1
    try:
        os.setsid()
        be_reaper()
        code = _shim(attempts, name)
    except Exception:  # noqa: BLE001  its only reader is the journal: the main process keeps the task from here
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _shim(attempts: int, name: str) -> int:
    try:
        folder, order, lease = take(attempts, name)
    except CannotStart as error:
        return _refuse(attempts, name, str(error))
    selector = selectors.PollSelector()
    wake_on_child(selector)
    keep(selector, launch(selector, folder, order | own_memory_group(order.get("memory_max", 0)), lease))
    return 0


def _refuse(attempts: int, name: str, reason: str) -> int:
    """Say why nothing was started."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        file = os.open(f"{name}/{REFUSAL}", flags, 0o600, dir_fd=attempts)
        with os.fdopen(file, "w", encoding="utf-8") as writer:
            writer.write(reason)
    return REFUSED


def _take_over(attempts: int, name: str) -> int:
    """Keep an attempt that lost its shim, with all that the shim had started: that is this process's now."""
    folder = inherit_attempt(attempts, name)
    status = read_status(folder)
    if status is None:
        return 1  # the claim wasn't taken, or nothing could be stored: the runner sees which
    if "pid" not in status:
        write_never_ran(folder)
    elif status["phase"] != "final":
        order = read_order(folder)
        order |= own_memory_group(order.get("memory_max", 0))
        selector = selectors.PollSelector()
        wake_on_child(selector)
        keeper = Keeper(selector, folder, status, order, shim=os.getpid())
        facts = process(keeper.pid)
        keeper.orphan = facts is None or facts[1] != os.getpid() or facts[3] != status["start"]
        keep(selector, keeper)
    return 0


def own_memory_group(limit: int) -> dict[str, Any]:
    """What an order says instead where the kernel holds this process's control group to ``limit`` bytes: then
    nobody has to watch, and there is a file that counts who was killed. Nothing for 0."""
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file if limit else ():
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if not controllers:
                most, events = f"{_GROUPS}{path}/memory.max", f"{_GROUPS}{path}/memory.events"
            elif "memory" in controllers.split(","):
                group = f"{_GROUPS}/memory{path}"
                most, events = f"{group}/memory.limit_in_bytes", f"{group}/memory.oom_control"
            else:
                continue
            with contextlib.suppress(OSError, ValueError), open(most, encoding="ascii") as value:
                if int(value.read()) <= limit:  # in whole pages
                    return {"oom_file": events, "watch_memory": 0}
    return {}
