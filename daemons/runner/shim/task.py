"""In the new process of a task: everything up to ``exec``."""

# ruff: noqa: PTH110, PTH112, PTH116, PTH123  (see proc.py)

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
from collections.abc import Iterable
from typing import Any, NoReturn

from daemons.runner.shim.binding import bind
from daemons.runner.shim.status import read_status

_APART = {"net": "network", "pid": "process tree"}
_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4


def become_task(folder: int, order: dict[str, Any], go: int, errors: int, stdin: int | None) -> NoReturn:
    """Wait for a byte from ``go``, then execute; whatever fails is told through ``errors``."""
    step, code = "start", None
    try:
        os.setsid()
        _forget_signals()
        step = "open the logs"
        streams = _open_streams(folder, stdin)
        if os.read(go, 1) != b"g" and not _is_recorded(folder):
            os._exit(125)
        os.close(folder)  # whoever takes over from a shim that was killed needs its lock
        for target, each in enumerate(streams):
            os.dup2(each, target)
        step = "enter the cgroup"
        _enter_cgroups(order.get("cgroups", ()))
        for step in bind(order):  # noqa: B007  named before it is done
            pass
        for kind, outside in order.get("apart", {}).items():
            step = f"have a {_APART[kind]} of its own"
            _check_apart(kind, outside)
        if order.get("killable"):
            _be_killable()
        if order.get("user"):
            step = f"become the user {order['user']['name']}"
            _become(order["user"])
        os.umask(0o022)
        step = f"enter the working directory {order['cwd']}"
        os.chdir(order["cwd"].encode())
        code, text = _execute(order["argv"], order["env"])
    except OSError as error:
        text = f"can't {step}: {error.strerror}"
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):  # the shim was killed: the exit code says it, too
        os.write(errors, json.dumps({"code": code, "text": text[:500]}).encode())
    os._exit(code or 126)


def _is_recorded(folder: int) -> bool:
    """Whether the shim, which was killed, had stored this process: then it may go on, and has a keeper."""
    status = read_status(folder)
    return status is not None and status.get("pid") == os.getpid() and status["phase"] == "started"


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


def _check_apart(kind: str, outside: int) -> None:
    """Raises OSError in the namespace ``outside``: systemd starts a unit also where it can't make another."""
    if os.stat(f"/proc/self/ns/{kind}").st_ino == outside:
        raise OSError(errno.EPERM, "this machine gives none")


def _be_killable() -> None:
    """For memory the kernel may take the task, where it must not take the shim."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("0")


def _become(user: dict[str, Any]) -> None:
    """Another user, for good: without any power of this one."""
    os.setgroups(user["groups"])
    os.setresgid(user["gid"], user["gid"], user["gid"])
    os.setresuid(user["uid"], user["uid"], user["uid"])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


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
                if "/" not in name and not os.path.exists(place):
                    continue  # in a folder of the PATH that isn't for this user
                is_folder = os.path.isdir(place)
                denied = denied or (126, f"{name}: {'is a folder' if is_folder else 'permission denied'}")
            elif error.errno == errno.ENOEXEC:
                return 126, f"{name}: not a program (a script must start with #!)"
            else:
                return 126, f"{name}: {(error.strerror or 'exec failed').lower()}"
    return denied or (127, f"{name}: {'no such file' if '/' in name else 'command not found'}")
