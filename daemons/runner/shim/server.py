"""The fork server: forks shims and fences, and keeps what they leave when they are killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from daemons.runner.shim.claim import INHERITANCE, open_attempt, read_order, write_never_ran
from daemons.runner.shim.fence import stand
from daemons.runner.shim.keeper import Keeper
from daemons.runner.shim.life import live
from daemons.runner.shim.proc import be_reaper, process, reap
from daemons.runner.shim.sockets import PROTOCOL, Clients, listen, say, server_name, wait_for, wake_on_child
from daemons.runner.shim.status import read_status

IDLE = 5.0  # seconds without client and attempt after which the fork server ends
FENCE_PAUSE = 1.0  # seconds that lie at least between a fence and the one that replaces it
STRAY_MEMORY = 10.0  # seconds for which the end of a child that nobody keeps yet is remembered


class Server:
    """Everything that the fork server holds; ``lock`` says that it is the only one."""

    def __init__(self, folder: int, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self._attempts = os.open("attempts", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        self._selector = selectors.PollSelector()
        self._clients = Clients(self._selector, self._answer)
        self._shims: dict[int, str] = {}
        self._fences: dict[int, tuple[str, float]] = {}  # pid → attempt, since when
        self._fallen: dict[str, float] = {}  # attempt whose fence was killed → when it gets another
        self._adopted: dict[str, Keeper] = {}
        self._strays: dict[int, tuple[int, float]] = {}
        self._left: dict[str, float] = {}  # attempt whose shim was killed → until when its task may hold it
        self._open()
        wake_on_child(self._selector)

    def _open(self) -> None:
        self._listening = listen(self._folder, server_name())
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        client = self._clients.accept(self._listening)
        if client is not None:
            say(client, {"hello": PROTOCOL, "pid": os.getpid()})

    def run(self) -> None:
        """Until nobody has needed it for a while."""
        idle_since = time.monotonic()
        while True:
            now = time.monotonic()
            if self._busy():
                idle_since = now
            elif now - idle_since >= IDLE and self._close():
                return
            self._replace_fences(now)
            ticks = [keeper.tick(now) for keeper in self._adopted.values()]
            due = min([now + (0.01 if self._left else 1.0), *ticks, *self._fallen.values()])
            self._adopted = {name: keeper for name, keeper in self._adopted.items() if not keeper.done}
            wait_for(self._selector, due)
            self._reap()

    def _busy(self) -> bool:
        kept = self._shims or self._left or self._adopted or self._fences or self._fallen
        return bool(self._clients.buffers or kept)

    def _close(self) -> bool:
        """Stop listening unless somebody came in the last moment. A client counts on us only after hello."""
        with contextlib.suppress(OSError):
            os.unlink(server_name(), dir_fd=self._folder)
        self._accept()
        self._selector.unregister(self._listening)
        self._listening.close()
        if not self._clients.buffers:
            return True
        self._open()
        return False

    def _answer(self, client: socket.socket, message: dict[str, Any]) -> None:
        name = message.get("name")
        if not isinstance(name, str) or "/" in name or name.startswith("."):
            say(client, {"refused": "no such attempt"})
        elif message.get("op") in ("start", "fence"):
            self._start(client, name, fence=message["op"] == "fence")
        elif message.get("op") == "adopt":
            say(client, {"adopted": name in self._shims.values() or self._try_to_adopt(name)})

    # ---- shims and fences

    def _start(self, client: socket.socket, name: str, *, fence: bool) -> None:
        """Fork a shim or a fence; from here on the connection is its own."""
        try:
            pid = self._fork(client, partial(stand if fence else live, self._attempts, name, client))
        except OSError as error:
            say(client, {"refused": f"no process can be made: {error.strerror}"})
            return
        if fence:
            self._fences[pid] = (name, time.monotonic())
        else:
            self._shims[pid] = name
        self._clients.drop(client)

    def _fork(self, client: socket.socket | None, life: Callable[[], None]) -> int:
        """A process that lives this life and never returns into our loop; its pid. Raises OSError."""
        pid = os.fork()
        if pid != 0:
            return pid
        code = 1
        try:
            self._let_go(client)
            life()
            code = 0
        except Exception:  # noqa: BLE001  its only reader is the log: the fork server takes over from here
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _let_go(self, client: socket.socket | None) -> None:
        """In a new process: close all that is the server's, but for the connection that is its own now."""
        signal.set_wakeup_fd(-1)
        if client is not None:
            self._clients.forget(client)
        for each in list(self._clients.buffers):
            each.close()
        self._listening.close()
        self._selector.close()
        for keeper in self._adopted.values():
            keeper.let_go()
        os.close(self._lock)
        os.setsid()

    # ---- what they leave when they are killed

    def _reap(self) -> None:
        now = time.monotonic()
        for pid, raw in reap():
            if pid in self._shims:
                self._left[self._shims.pop(pid)] = now + INHERITANCE
            elif pid in self._fences:
                fallen, since = self._fences.pop(pid)
                if raw:
                    self._fallen[fallen] = max(now, since + FENCE_PAUSE)
            else:
                self._strays[pid] = (raw, now)
        self._left = {name: until for name, until in self._left.items() if not self._inherit(name, until)}
        for keeper in self._adopted.values():
            if keeper.pid in self._strays and keeper.status["phase"] == "started":
                keeper.reaped(self._strays.pop(keeper.pid)[0])
        self._strays = {pid: seen for pid, seen in self._strays.items() if now - seen[1] < STRAY_MEMORY}

    def _replace_fences(self, now: float) -> None:
        """Let another stand where one was killed; it ends at once where it isn't needed any more."""
        for name in [name for name, due in self._fallen.items() if now >= due]:
            self._fallen[name] = now + FENCE_PAUSE
            with contextlib.suppress(OSError):
                pid = self._fork(None, partial(stand, self._attempts, name, None))
                self._fences[pid] = (name, now)
                del self._fallen[name]

    def _inherit(self, name: str, until: float) -> bool:
        """Adopt what a shim left; False while its task, which has not executed yet, holds the folder."""
        try:
            self._adopt(name)
        except BlockingIOError:
            return time.monotonic() >= until
        return True

    def _try_to_adopt(self, name: str) -> bool:
        try:
            return self._adopt(name)
        except BlockingIOError:
            return False  # a shim of another fork server holds it

    def _adopt(self, name: str) -> bool:
        """Keep an attempt that lost its shim, unless it ended; raises BlockingIOError while it is held."""
        if name in self._adopted:
            return True
        try:
            folder = open_attempt(self._attempts, name)
        except BlockingIOError:
            raise
        except OSError:
            return False
        status = read_status(folder)
        try:
            if status is None or "pid" not in status:
                write_never_ran(folder)
            elif status["phase"] != "final":
                keeper = Keeper(self._selector, folder, status, read_order(folder))
                facts = process(keeper.pid)
                ours = facts is not None and facts[1] == os.getpid() and facts[3] == status["start"]
                keeper.orphan = not ours and keeper.pid not in self._strays
                self._adopted[name] = keeper
                return True
        except (OSError, ValueError):
            os.close(folder)
            return False
        os.close(folder)
        return True


def main(path: str) -> int:
    """Start the fork server of a runner's folder in the background, unless one lives."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if os.fstat(folder).st_uid != os.geteuid() or stat.S_IMODE(os.fstat(folder).st_mode) & 0o077:
        sys.stderr.write(f"{path} is not a private folder of this user\n")
        return 1
    lock = os.open(f"forkserver-{PROTOCOL}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    os.chdir("/")
    os.umask(0o077)
    server = Server(folder, lock)
    if os.fork() != 0:
        os._exit(0)
    os.setsid()
    be_reaper()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends by itself when it has nothing to keep
    server.run()
    return 0
