"""In the new process of a task: everything up to ``exec``."""

# ruff: noqa: PTH110, PTH112, PTH123  (see proc.py)

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from collections.abc import Iterable
from typing import Any, NoReturn


def become_task(folder: int, order: dict[str, Any], go: int, errors: int, stdin: int | None) -> NoReturn:
    """Wait for a byte from ``go``, then execute; whatever fails is told through ``errors``."""
    step, code = "start", None
    try:
        os.setsid()
        _forget_signals()
        step = "open the logs"
        streams = _open_streams(folder, stdin)
        if os.read(go, 1) != b"g":
            os._exit(125)
        for target, each in enumerate(streams):
            os.dup2(each, target)
        step = "enter the cgroup"
        _enter_cgroups(order.get("cgroups", ()))
        step = "set the CPU affinity"
        if order.get("cpus"):
            os.sched_setaffinity(0, order["cpus"])
        os.umask(0o022)
        step = f"enter the working directory {order['cwd']}"
        os.chdir(order["cwd"].encode())
        code, text = _execute(order["argv"], order["env"])
    except OSError as error:
        text = f"can't {step}: {error.strerror}"
    os.write(errors, json.dumps({"code": code, "text": text[:500]}).encode())
    os._exit(code or 126)


def _forget_signals() -> None:
    """Every signal as a fresh process has it."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _open_streams(folder: int, stdin: int | None) -> tuple[int, int, int]:
    append = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    out = os.open("io/out", append, 0o644, dir_fd=folder)
    err = os.open("io/err", append, 0o644, dir_fd=folder)
    source = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) if stdin is None else stdin
    return source, out, err


def _enter_cgroups(paths: Iterable[str]) -> None:
    for path in paths:
        with open(f"{path}/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")


def _execute(argv: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Exec along PATH like a shell; returns only to say why not: 127 not found, 126 not executable."""
    arguments = [each.encode() for each in argv]
    variables = {key.encode(): value.encode() for key, value in env.items()}
    name = argv[0]
    if not name:
        return 127, "the command is an empty word"
    places = [name] if "/" in name else [f"{part or '.'}/{name}" for part in env.get("PATH", "").split(":")]
    denied: tuple[int, str] | None = None
    for place in places:
        try:
            os.execve(place.encode(), arguments, variables)  # noqa: S606
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                if "/" in name and os.path.exists(place):
                    return 127, f"{name}: its interpreter was not found"  # the one after #!
            elif error.errno == errno.EACCES:
                is_folder = os.path.isdir(place)
                denied = denied or (126, f"{name}: {'is a folder' if is_folder else 'permission denied'}")
            elif error.errno == errno.ENOEXEC:
                return 126, f"{name}: not a program (a script must start with #!)"
            else:
                return 126, f"{name}: {(error.strerror or 'exec failed').lower()}"
    return denied or (127, f"{name}: {'no such file' if '/' in name else 'command not found'}")
