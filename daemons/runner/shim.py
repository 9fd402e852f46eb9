"""The fork server and its shims: what keeps a process task while no runner lives. Stdlib only, one file.

Run as ``python -I -S shim.py RUNNER_FOLDER``. It puts itself in the background and listens on a UNIX socket;
one line of JSON, ``{"op": "start", "name": "7.1"}``, forks a *shim* for ``attempts/7.1``. A shim

* holds a lock on the attempt's folder while it lives and takes ``io/claim``, so that nothing starts twice;
* stores the task's pid in ``status`` before the task may execute anything: no pid means that it never ran;
* is the reaper of everything the task starts, sends all signals, and ends what the task leaves behind;
* keeps facts (raw wait status, times, memory), never judgements: the runner's journal knows what was wanted.

A task whose shim was killed falls to the fork server, which keeps it with the same code.
"""

# pathlib stays out: every task pays for what is imported here.
# ruff: noqa: PTH110, PTH112, PTH123, PTH208

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import selectors
import signal
import socket
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

PROTOCOL = 1  # part of the socket's name: a runner never talks to a fork server of another version
BLOCK = 4096
IDLE = 5.0  # seconds without client and attempt after which the fork server ends
LEFTOVER_GRACE = 2.0  # seconds between TERM and KILL for what a task leaves behind
WATCH_INTERVAL = 0.25
MAX_LINE = 256 * 1024
PR_SET_CHILD_SUBREAPER = 36
Status = dict[str, Any]


# ---- status: a fixed block, overwritten in place, because a full disk still lets us do that


def encode_status(status: Status) -> bytes:
    """One block of exactly BLOCK bytes: checksum, JSON, padding."""
    body = json.dumps(status, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    block = b"%08x %s" % (zlib.crc32(body), body)
    if len(block) >= BLOCK:
        raise ValueError("status is too long")
    return block.ljust(BLOCK - 1) + b"\n"


def decode_status(block: bytes) -> Status | None:
    """The status in a block, None when there is no valid one."""
    head, _, body = block.partition(b" ")
    body = body.rstrip()
    try:
        if len(block) != BLOCK or int(head, 16) != zlib.crc32(body):
            return None
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def read_status(folder: int) -> Status | None:
    """The status in an attempt's folder; None when it was never stored. Waits for a write."""
    for _ in range(5):
        try:
            file = os.open("status", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            return None
        try:
            status = decode_status(os.pread(file, BLOCK, 0))
        finally:
            os.close(file)
        if status is not None:
            return status
        time.sleep(0.002)
    return None


# ---- /proc


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def process(pid: int) -> tuple[str, int, int, int] | None:
    """``(state, parent, group, start time in clock ticks)`` of a process, None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            parts = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return parts[0].decode(), int(parts[1]), int(parts[2]), int(parts[19])


def children(pid: int) -> list[int]:
    """Direct children of a process; on kernels without the file for it, by a walk through /proc."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{thread}"):
                every = (int(name) for name in os.listdir("/proc") if name.isdigit())
                return [each for each in every if (process(each) or ("", 0))[1] == pid]
        except OSError:
            continue
    return found


def tree(roots: Iterable[int]) -> list[int]:
    """The roots and all their descendants."""
    found: dict[int, None] = {}
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found[pid] = None
            waiting += children(pid)
    return list(found)


def alive(pids: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """``(pid, group, start time)`` of those that still run (a zombie doesn't)."""
    for pid in pids:
        facts = process(pid)
        if facts is not None and facts[0] not in "ZX":
            yield pid, facts[2], facts[3]


def send(pid: int, started: int, number: int) -> None:
    """A signal to exactly the process that was seen: a pid that was reused in between is left alone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:  # a kernel without pidfd: the window is as small as it gets
        with contextlib.suppress(OSError):
            os.kill(pid, number)
        return
    try:
        facts = process(pid)
        if facts is not None and facts[3] == started:
            signal.pidfd_send_signal(handle, number)
    except OSError:
        pass
    finally:
        os.close(handle)


def resident(pids: Iterable[int]) -> int:
    """Bytes resident in all processes; pages they share are counted for each. Cheap, never too low."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/statm", "rb") as file:
            total += int(file.read().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


def proportional(pids: Iterable[int]) -> int:
    """Bytes of anonymous and shared memory, each page counted once over all processes; dear, exact."""
    total = 0
    for pid in pids:
        fields: dict[bytes, int] = {}
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                name, _, rest = line.partition(b":")
                if name in (b"Pss", b"Pss_Anon", b"Pss_Shmem"):
                    fields[name] = int(rest.split()[0])
        exact = fields.get(b"Pss_Anon", 0) + fields.get(b"Pss_Shmem", 0)
        total += (exact if b"Pss_Anon" in fields else fields.get(b"Pss", 0)) * 1024
    return total


def be_reaper() -> None:
    """Become the parent of every descendant that loses its own."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


# ---- sockets


def at(folder: int, name: str) -> str:
    """A path of any depth in at most 108 bytes."""
    return f"/proc/self/fd/{folder}/{name}"


def listen(folder: int, name: str) -> socket.socket:
    """A listening socket that appears under its name only when it listens."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = f"{name}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=folder)
    found.bind(at(folder, fresh))
    found.listen(128)
    found.setblocking(False)
    os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    return found


def say(client: socket.socket, message: object) -> bool:
    """Send one line; False when the client is gone or doesn't read."""
    data = json.dumps(message).encode() + b"\n"
    try:
        return client.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(data)
    except OSError:
        return False


class Clients:
    """Connections and the lines that come from them."""

    def __init__(
        self, selector: selectors.BaseSelector, answer: Callable[[socket.socket, dict[str, Any]], None]
    ) -> None:
        self._selector = selector
        self._answer = answer
        self.buffers: dict[socket.socket, bytes] = {}

    def accept(self, listening: socket.socket) -> socket.socket | None:
        try:
            client, _ = listening.accept()
        except OSError:
            return None
        self.add(client)
        return client

    def add(self, client: socket.socket) -> None:
        client.setblocking(False)
        self.buffers[client] = b""
        self._selector.register(client, selectors.EVENT_READ, lambda: self._read(client))

    def forget(self, client: socket.socket) -> None:
        """Stop listening to a client without closing it."""
        if self.buffers.pop(client, None) is not None:
            self._selector.unregister(client)

    def drop(self, client: socket.socket) -> None:
        self.forget(client)
        client.close()

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        lines = (self.buffers[client] + data).split(b"\n")
        if not data or len(lines[-1]) > MAX_LINE:
            self.drop(client)
            return
        self.buffers[client] = lines[-1]
        for line in lines[:-1]:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self.drop(client)
            elif client in self.buffers:
                self._answer(client, message)


# ---- one attempt


class Keeper:
    """One attempt that runs: its signals, its memory, its end. Lives in a shim, or in the fork server when
    the shim was killed."""

    def __init__(
        self, selector: selectors.BaseSelector, folder: int, status: Status, order: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.status = status
        self.pid: int = status["pid"]
        self.done = False
        self.orphan = False  # not our child: nobody will ever know how it ended
        self._order = order
        self._selector = selector
        self._clients = Clients(selector, self._answer)
        self._watchers: list[socket.socket] = []
        self._stdin: int | None = None
        self._stdin_offset = 0
        self._kill_at: float | None = None
        self._term_sent = False
        self._watch_at = 0.0
        self._store_at = 0.0
        self._exact_at = 0.0
        self._file = os.open("status", os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        self._listening = listen(folder, "control")
        selector.register(
            self._listening, selectors.EVENT_READ, lambda: self._clients.accept(self._listening)
        )

    def feed(self, stdin: int) -> None:
        """Take the write end of the task's standard input."""
        os.set_blocking(stdin, False)
        self._stdin = stdin

    def watch(self, client: socket.socket) -> None:
        """Tell a client every change of the status from now on."""
        self._clients.add(client)
        self._watchers.append(client)

    def family(self) -> list[int]:
        """Everything that belongs to the attempt. In a shim: all its descendants. In the fork server: the
        task, and those orphans that carry the attempt's number in their environment."""
        if self._order["shim"] == os.getpid():
            return tree(children(os.getpid()))
        roots = [self.pid] if self._leader_lives() else []
        return tree(roots + [pid for pid in children(os.getpid()) if self._marked(pid)])

    def _leader_lives(self) -> bool:
        facts = process(self.pid)
        return facts is not None and facts[3] == self.status["start"] and facts[0] not in "ZX"

    def _marked(self, pid: int) -> bool:
        env = self._order["env"]
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                have = file.read().split(b"\0")
        except OSError:
            return False
        return all(
            f"{key}={env.get(key)}".encode() in have for key in ("HAKURIVER_TASK_ID", "HAKURIVER_ATTEMPT")
        )

    def signal_all(self, number: int) -> bool:
        """Send to the group at once, then to whoever left it; True when somebody was there. STOP and KILL
        come again for those that were forked meanwhile."""
        seen: set[int] = set()
        for _ in range(20 if number in (signal.SIGSTOP, signal.SIGKILL) else 1):
            living = [each for each in alive(self.family()) if each[0] not in seen]
            if any(group == self.pid for _, group, _ in living):
                with contextlib.suppress(OSError):
                    os.killpg(self.pid, number)
            for pid, group, started in living:
                if group != self.pid:
                    send(pid, started, number)
            if not living:
                break
            seen.update(pid for pid, _, _ in living)
        return bool(seen)

    def end_all(self, grace: float) -> None:
        """TERM (a paused task must wake up to hear it), and KILL after ``grace`` seconds."""
        now = time.monotonic()
        self._kill_at = min(self._kill_at or now + grace, now + grace)
        if not self._term_sent:
            self._term_sent = True
            self.signal_all(signal.SIGTERM)
            self.signal_all(signal.SIGCONT)

    def reaped(self, raw: int | None) -> None:
        """The task itself ended, with this wait status (None: nobody was there to see it)."""
        self.status |= {"phase": "exited", "raw": raw, "ended_at": time.time(), "ended_boot": boottime()}
        self._count_oom()
        self._term_sent = False  # what is left behind hears TERM once more
        self._write()

    def tick(self, now: float) -> float:
        """Do what is due; returns when to come again."""
        if self.status["phase"] == "started":
            due = self._watch_memory(now)
            if self.orphan:
                if not self._leader_lives():
                    self.reaped(None)
                due = min(due, now + WATCH_INTERVAL)
            if self._kill_at is not None:
                if now >= self._kill_at:
                    self.signal_all(signal.SIGKILL)
                    return now + 0.05
                due = min(due, self._kill_at)
            if self.status["phase"] == "started":
                return due
        if self.status["phase"] == "exited":
            if any(True for _ in alive(self.family())):
                self.end_all(LEFTOVER_GRACE)
                if self._kill_at is not None and now >= self._kill_at:
                    self.signal_all(signal.SIGKILL)
                return now + 0.02
            self.status["phase"] = "final"
        return self._finish(now)

    def _finish(self, now: float) -> float:
        if now < self._store_at:
            return self._store_at
        if not self._write(durable=True):
            self._store_at = now + 0.5
            return self._store_at
        for client in list(self._clients.buffers):
            self._clients.drop(client)
        self._selector.unregister(self._listening)
        self._listening.close()
        with contextlib.suppress(OSError):
            os.unlink("control", dir_fd=self.folder)
        os.close(self._file)
        os.close(self.folder)
        self.done = True
        return now

    def _write(self, *, durable: bool = False) -> bool:
        """Store the status and, when it is stored, tell those who watch."""
        try:
            os.pwrite(self._file, encode_status(self.status), 0)
            if durable:
                os.fsync(self._file)
        except OSError:
            return False
        self._watchers = [client for client in self._watchers if client in self._clients.buffers]
        for client in self._watchers:
            say(client, {"status": self.status})
        return True

    def _watch_memory(self, now: float) -> float:
        limit: int = self._order.get("watch_memory") or 0
        if not limit:
            return now + 3600
        if now < self._watch_at:
            return self._watch_at
        self._watch_at = now + WATCH_INTERVAL
        family = self.family()
        if resident(family) > limit and now >= self._exact_at:
            used = proportional(family)
            cost = time.monotonic() - now
            self._exact_at = now + 20 * cost  # a huge task must not be slowed by being measured
            if used > limit:
                self.status |= {"oom": True, "oom_events": 1}
                self.signal_all(signal.SIGKILL)
        return self._watch_at

    def _count_oom(self) -> None:
        path = self._order.get("oom_file")
        if not path:
            return
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            for line in file:
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    self.status["oom_events"] = int(count)

    def let_go(self) -> None:
        """In a process forked from this one: close what is the other's."""
        for each in (self._listening, *self._clients.buffers):
            each.close()
        os.close(self._file)
        os.close(self.folder)

    def _answer(self, client: socket.socket, message: dict[str, Any]) -> None:
        if message.get("op") == "watch":
            self._watchers.append(client)
            say(client, {"status": self.status})
            return
        try:
            answer = self._obey(message) if self.status["phase"] == "started" else {"error": "ended"}
        except (KeyError, TypeError, ValueError):
            answer = {"error": "unknown"}
        say(client, answer)

    def _obey(self, message: dict[str, Any]) -> dict[str, Any]:
        match message["op"]:
            case "signal":
                self.signal_all(signal.Signals(message["signal"]))
            case "kill":
                self.end_all(float(message["grace"]))
            case "pause":
                self.signal_all(signal.SIGSTOP)
            case "resume":
                self.signal_all(signal.SIGCONT)
            case "stdin":
                return self._take_stdin(message)
            case _:
                return {"error": "unknown"}
        return {"ok": True}

    def _take_stdin(self, message: dict[str, Any]) -> dict[str, Any]:
        """Bytes from an offset on; what we had already is skipped, what doesn't fit is asked for again."""
        data = base64.b64decode(message["data"], validate=True)
        skip = self._stdin_offset - int(message["offset"])
        if skip < 0:
            return {"error": "gap", "offset": self._stdin_offset}
        if self._stdin is None:
            known = {"offset": self._stdin_offset}
            return known if skip >= len(data) else known | {"error": "closed"}
        rest = data[skip:]
        try:
            written = os.write(self._stdin, rest) if rest else 0
        except BlockingIOError:
            written = 0
        except OSError:
            self._close_stdin()
            return {"error": "closed", "offset": self._stdin_offset}
        self._stdin_offset += written
        if message.get("eof") and written == len(rest):
            self._close_stdin()
        return {"offset": self._stdin_offset}

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# ---- the shim: from the order to a running task


class CannotStart(Exception):
    """The task can't be started: why. The claim was not taken, or was given back."""


def open_attempt(attempts: int, name: str) -> int:
    """The folder of an attempt, locked: whoever holds it is the only one to keep the attempt."""
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=attempts)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(folder)
        raise
    return folder


def read_order(folder: int) -> dict[str, Any]:
    file = os.open("order.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(file, "rb") as reader:
        found: dict[str, Any] = json.load(reader)
    return found


def take_claim(folder: int) -> None:
    """Take the claim and a block for the status, or neither; raises CannotStart."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open("io/claim", flags, 0o644, dir_fd=folder))
    except FileExistsError:
        raise CannotStart("claimed") from None
    except OSError as error:
        raise CannotStart(f"the start can't be recorded: {error.strerror}") from None
    try:
        file = os.open("status", flags & ~os.O_EXCL, 0o600, dir_fd=folder)
        try:
            os.pwrite(file, encode_status({"phase": "claimed", "boot": boot_id()}), 0)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink("status", dir_fd=folder)
            os.unlink("io/claim", dir_fd=folder)
        raise CannotStart(f"the start can't be recorded: {error.strerror}") from None


def run_shim(attempts: int, name: str, client: socket.socket) -> None:
    """The whole life of a shim. ``client`` asked for it and is told everything."""
    be_reaper()
    try:
        folder = open_attempt(attempts, name)
    except OSError as error:
        held = isinstance(error, BlockingIOError)
        say(client, {"refused": "claimed" if held else f"its folder can't be used: {error.strerror}"})
        return
    try:
        order = read_order(folder)
        take_claim(folder)
    except (OSError, ValueError) as error:
        say(client, {"refused": f"its order can't be read: {error}"})
        return
    except CannotStart as error:
        say(client, {"refused": str(error)})
        return
    order["shim"] = os.getpid()
    selector = selectors.PollSelector()
    wake_on_child(selector)
    keeper = launch(selector, folder, order)
    keeper.watch(client)
    say(client, {"status": keeper.status})
    while not keeper.done:
        due = keeper.tick(time.monotonic())
        wait_for(selector, due)
        for pid, raw in reap():
            if pid == keeper.pid:
                keeper.reaped(raw)


def launch(selector: selectors.BaseSelector, folder: int, order: dict[str, Any]) -> Keeper:
    """Fork the task; it executes only after its pid is stored."""
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC) if order.get("stdin") else (-1, -1)
    pid = os.fork()
    if pid == 0:
        for each in (go_write, error_read, stdin_write):
            if each >= 0:
                os.close(each)
        become_task(folder, order, go_read, error_write, stdin_read)
    for each in (go_read, error_write, stdin_read):
        if each >= 0:
            os.close(each)
    facts = process(pid)
    status: Status = {"phase": "started", "boot": boot_id(), "pid": pid, "start": facts[3] if facts else 0}
    status |= {"started_at": time.time(), "started_boot": boottime()}
    status |= {
        "raw": None,
        "ended_at": None,
        "ended_boot": None,
        "oom": False,
        "oom_events": 0,
        "error": None,
    }
    file = os.open("status", os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    os.pwrite(file, encode_status(status), 0)
    os.close(file)
    os.write(go_write, b"g")
    os.close(go_write)
    failure = b""
    while part := os.read(error_read, 65536):
        failure += part
    os.close(error_read)
    if failure:
        status["error"] = json.loads(failure)
    keeper = Keeper(selector, folder, status, order)
    if stdin_write >= 0:
        keeper.feed(stdin_write)
    return keeper


def become_task(folder: int, order: dict[str, Any], go: int, errors: int, stdin: int) -> None:
    """In the new process: everything up to ``exec``; whatever fails is told through ``errors``."""
    step, code = "start", None
    try:
        os.setsid()
        for number in signal.valid_signals():
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        step = "open the logs"
        append = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        out = os.open("io/out", append, 0o644, dir_fd=folder)
        err = os.open("io/err", append, 0o644, dir_fd=folder)
        source = stdin if stdin >= 0 else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        if os.read(go, 1) != b"g":
            os._exit(125)
        for target, each in enumerate((source, out, err)):
            os.dup2(each, target)
        for path in order.get("cgroups", ()):
            step = "enter the cgroup"
            with open(f"{path}/cgroup.procs", "w", encoding="ascii") as file:
                file.write("0")
        if order.get("cpus"):
            step = "set the CPU affinity"
            os.sched_setaffinity(0, order["cpus"])
        if order.get("gid") is not None:
            step = "change the user"
            os.setgroups(order.get("groups", [order["gid"]]))
            os.setgid(order["gid"])
        if order.get("uid") is not None:
            os.setuid(order["uid"])
        os.umask(0o022)
        step = f"enter the working directory {order['cwd']}"
        os.chdir(order["cwd"].encode())
        step, code, text = "", *execute(order["argv"], order["env"])
    except OSError as error:
        text = f"can't {step}: {error.strerror}"
    os.write(errors, json.dumps({"code": code, "text": text[:500]}).encode())
    os._exit(code or 126)


def execute(argv: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Exec along PATH like a shell; returns only to say why not: 127 not found, 126 not executable."""
    arguments = [each.encode() for each in argv]
    variables = {key.encode(): value.encode() for key, value in env.items()}
    name = argv[0]
    places = [name] if "/" in name else [f"{part or '.'}/{name}" for part in env.get("PATH", "").split(":")]
    denied: tuple[int, str] | None = None
    for place in places:
        try:
            os.execve(place.encode(), arguments, variables)  # noqa: S606
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                script = "/" in name and os.path.exists(place)  # then the interpreter after #! is missing
                if script:
                    return 127, f"{name}: its interpreter was not found"
            elif error.errno == errno.EACCES:
                is_folder = os.path.isdir(place)
                denied = denied or (126, f"{name}: {'is a folder' if is_folder else 'permission denied'}")
            elif error.errno == errno.ENOEXEC:
                return 126, f"{name}: not a program (a script must start with #!)"
            else:
                return 126, f"{name}: {(error.strerror or 'exec failed').lower()}"
    return denied or (127, f"{name}: {'no such file' if '/' in name else 'command not found'}")


# ---- the fork server


def wake_on_child(selector: selectors.BaseSelector) -> None:
    """Make the end of a child wake ``selector``."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector.register(reader, selectors.EVENT_READ, lambda: os.read(reader, 4096))


def wait_for(selector: selectors.BaseSelector, due: float) -> None:
    """Handle what comes until ``due``, once."""
    for key, _ in selector.select(max(0.0, due - time.monotonic())):
        if key.fileobj in selector.get_map():
            key.data()


def reap() -> Iterator[tuple[int, int]]:
    """Children that ended, with their wait status."""
    while True:
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, raw


class Server:
    """Forks shims, and keeps what they leave when they are killed."""

    def __init__(self, folder: int, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self._attempts = os.open("attempts", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        self._name = f"forkserver-{PROTOCOL}.sock"
        self._selector = selectors.PollSelector()
        self._clients = Clients(self._selector, self._answer)
        self._shims: dict[int, str] = {}
        self._adopted: dict[str, Keeper] = {}
        self._strays: dict[int, tuple[int, float]] = {}
        self._open()
        wake_on_child(self._selector)

    def _open(self) -> None:
        self._listening = listen(self._folder, self._name)
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        client = self._clients.accept(self._listening)
        if client is not None:
            say(client, {"hello": PROTOCOL, "pid": os.getpid()})

    def run(self) -> None:
        idle_since = time.monotonic()
        while True:
            now = time.monotonic()
            if self._clients.buffers or self._shims or self._adopted:
                idle_since = now
            elif now - idle_since >= IDLE and self._close():
                return
            due = min([now + 1.0, *(keeper.tick(now) for keeper in self._adopted.values())])
            self._adopted = {name: keeper for name, keeper in self._adopted.items() if not keeper.done}
            wait_for(self._selector, due)
            self._reap()

    def _close(self) -> bool:
        """Stop listening unless somebody came in the last moment. A client counts on us only after hello."""
        with contextlib.suppress(OSError):
            os.unlink(self._name, dir_fd=self._folder)
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
        elif message.get("op") == "start":
            self._start(client, name)
        elif message.get("op") == "adopt":
            say(client, {"adopted": name in self._shims.values() or self._adopt(name)})

    def _start(self, client: socket.socket, name: str) -> None:
        """Fork the shim; from here on the connection is its own."""
        try:
            pid = os.fork()
        except OSError as error:
            say(client, {"refused": f"no process can be made: {error.strerror}"})
            return
        if pid == 0:
            run_and_exit(self, client, name)
        self._shims[pid] = name
        self._clients.drop(client)

    def become_shim(self, client: socket.socket) -> int:
        """In the new shim: let go of all that is the server's; returns the folder of attempts."""
        signal.set_wakeup_fd(-1)
        self._clients.forget(client)
        for each in list(self._clients.buffers):
            each.close()
        self._listening.close()
        self._selector.close()
        for keeper in self._adopted.values():
            keeper.let_go()
        os.close(self._lock)
        os.setsid()
        return self._attempts

    def _reap(self) -> None:
        now = time.monotonic()
        dead: list[str] = []
        for pid, raw in reap():
            if pid in self._shims:
                dead.append(self._shims.pop(pid))
            else:
                self._strays[pid] = (raw, now)
        for name in dead:
            self._adopt(name)
        for keeper in self._adopted.values():
            if keeper.pid in self._strays and keeper.status["phase"] == "started":
                keeper.reaped(self._strays.pop(keeper.pid)[0])
        self._strays = {pid: seen for pid, seen in self._strays.items() if now - seen[1] < 10}

    def _adopt(self, name: str) -> bool:
        """Keep an attempt that lost its shim; False when a shim of another fork server still holds it."""
        if name in self._adopted:
            return True
        try:
            folder = open_attempt(self._attempts, name)
        except OSError:
            return False
        status = read_status(folder)
        try:
            if status is None or "pid" not in status:
                write_never_ran(folder)
            elif status["phase"] != "final":
                keeper = Keeper(self._selector, folder, status, read_order(folder) | {"shim": 0})
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


def write_never_ran(folder: int) -> None:
    """The final status of an attempt whose shim was killed before it could execute anything."""
    status: Status = {"phase": "final", "boot": boot_id(), "never_ran": True}
    file = os.open("status", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        os.pwrite(file, encode_status(status), 0)
        os.fsync(file)
    finally:
        os.close(file)


def run_and_exit(server: Server, client: socket.socket, name: str) -> None:
    """The new process of a shim; never returns into the server's loop."""
    code = 1
    try:
        run_shim(server.become_shim(client), name, client)
        code = 0
    except Exception:  # noqa: BLE001  its only reader is the log: the fork server keeps the task from here
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
