"""Keeps the two daemons of an embedded cluster running; ``hakuriver up`` leaves it behind.

It knows nothing of tasks. If it is killed, the daemons go on; the next one ends and replaces them, which
costs a running task nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hakuriver.errors import Conflict
from hakuriver.statedir import Layout, layout

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
HEALTHY_AFTER = 60.0
"""Seconds a daemon must run for its back-off to start anew."""
STOP_WITHIN = 8.0
"""Seconds from TERM to KILL."""
LOG_LIMIT = 16 * 2**20
_TICK = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and under which addresses people find it."""

    state_dir: Path
    host_port: int
    runner_port: int
    host_url: str
    runner_url: str
    config: Path | None = None

    @property
    def layout(self) -> Layout:
        return layout(self.state_dir)

    def argv(self, role: str) -> list[str]:
        """The command line of a daemon; also how a later supervisor recognises it."""
        port = self.host_port if role == "host" else self.runner_port
        argv = [sys.executable, "-m", "hakuriver", role, "--embedded", "--state-dir", str(self.state_dir)]
        argv += ["--port", str(port)]
        if role == "runner":
            argv += ["--host", self.host_url]
        return [*argv, "--config", str(self.config)] if self.config else argv


@dataclass(slots=True)
class Child:
    """One daemon: its process now, and when it may be started again."""

    role: str
    url: str
    argv: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    crashes: int = 0
    last_exit: int | None = None
    started: float = 0.0
    due: float = 0.0
    pause: float = FIRST_PAUSE

    def facts(self) -> dict[str, Any]:
        pid = self.process.pid if self.process else None
        return {"url": self.url, "pid": pid, "crashes": self.crashes, "last_exit": self.last_exit}

    def start(self, now: float, environment: dict[str, str]) -> None:
        """Start it with its log as its output; a start that fails counts as a crash."""
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=environment,
                cwd="/",
            )
        finally:
            os.close(descriptor)
        self.started = now

    def reap(self, now: float) -> bool:
        """Notice its end and set when it is due again; whether it had ended."""
        if self.process is None or self.process.poll() is None:
            return False
        self.last_exit, self.process = self.process.returncode, None
        self.crashes += 1
        if now - self.started >= HEALTHY_AFTER:
            self.pause = FIRST_PAUSE
        self.due, self.pause = now + self.pause, min(self.pause * 2, LONGEST_PAUSE)
        _say(f"{self.role} ended with {self.last_exit}, starts again in {self.due - now:.1f} s")
        return True

    def stop(self) -> None:
        """TERM, then KILL; returns when it is gone."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            _say(f"{self.role} did not stop within {STOP_WITHIN:.0f} s and is killed")
            self.process.kill()
            self.process.wait(STOP_WITHIN)
        self.last_exit, self.process = self.process.returncode, None


@dataclass(slots=True)
class _Signals:
    """Signals as something to select on: no handler does any work."""

    wake: socket.socket
    stop: bool = field(default=False)

    def wait(self, timeout: float) -> None:
        select.select([self.wake], [], [], max(0.0, timeout))
        with contextlib.suppress(BlockingIOError):
            received = self.wake.recv(4096)
            self.stop = self.stop or bool({signal.SIGTERM, signal.SIGINT} & set(received))


def run(plan: Plan) -> int:
    """Supervise until SIGTERM, then stop the daemons; raises Conflict when another one runs here."""
    with _lock(plan.layout), _signals() as signals:
        stop_strays(plan.state_dir)
        children = [
            Child("host", plan.host_url, plan.argv("host"), plan.layout.host / "host.log"),
            Child("runner", plan.runner_url, plan.argv("runner"), plan.layout.runner / "runner.log"),
        ]
        environment = _environment(plan.layout)
        while not signals.stop:
            now = time.monotonic()
            changed = sum(child.reap(now) for child in children) > 0
            for child in children:
                if child.process is None and child.due <= now:
                    changed |= _started(child, now, environment)
                _rotate(child.log)
            if changed or not plan.layout.cluster_file.exists():  # whoever removed it meant nothing good
                write(plan, children)
            waiting = [child.due - now for child in children if child.process is None]
            signals.wait(min([_TICK, *waiting]))
        for child in reversed(children):  # the runner first: it says goodbye to the host
            child.stop()
        write(plan, children)
    return 0


def _started(child: Child, now: float, environment: dict[str, str]) -> bool:
    try:
        child.start(now, environment)
    except OSError as error:
        _say(f"{child.role} can't be started: {error}")
        child.due, child.pause = now + child.pause, min(child.pause * 2, LONGEST_PAUSE)
        return False
    return True


def write(plan: Plan, children: Sequence[Child]) -> None:
    """Write ``cluster.json`` in one piece. A full disk must not end the supervisor: it stays as it was."""
    facts: dict[str, Any] = {child.role: child.facts() for child in children}
    facts["supervisor"] = {"pid": os.getpid(), "started": start_ticks(os.getpid())}
    facts["ports"] = {"host": plan.host_port, "runner": plan.runner_port}
    target = plan.layout.cluster_file
    temporary = target.with_suffix(".new")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(facts, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        _say(f"{target} can't be written: {error}")


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot."""
    text = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    return int(text.rpartition(")")[2].split()[19])


def stop_strays(state_dir: Path) -> int:
    """End daemons that an earlier supervisor left behind; how many there were.

    They are recognised by their exact command line, so that one whose pid was never noted is found too.
    """
    held = [descriptor for pid in _own_pids() if (descriptor := _if_ours(pid, state_dir)) is not None]
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for descriptor in held:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
            give_up = time.monotonic() + STOP_WITHIN
            while alive := [d for d in held if not select.select([d], [], [], 0)[0]]:
                if time.monotonic() > give_up:
                    break
                select.select(alive, [], [], 0.2)
            else:
                break
    finally:
        for descriptor in held:
            os.close(descriptor)
    return len(held)


def _own_pids() -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and folder.stat().st_uid == os.geteuid():
                yield int(folder.name)


def _if_ours(pid: int, state_dir: Path) -> int | None:
    """A pidfd of a daemon of this state folder, else None: what it names can't become another process."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        argv = []
    tail = ["--embedded", "--state-dir", str(state_dir)]
    for role in ("host", "runner"):
        if argv[1:7] == ["-m", "hakuriver", role, *tail]:
            return descriptor
    os.close(descriptor)
    return None


@contextlib.contextmanager
def _lock(found: Layout) -> Iterator[None]:
    descriptor = os.open(found.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_up = time.monotonic() + 1  # a look at the lock by `status` takes it for an instant
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise Conflict(f"a supervisor runs already for {found.root}") from None
                time.sleep(0.02)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        note = {"pid": os.getpid(), "node": os.uname().nodename, "boot_id": boot}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(note).encode())
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield _Signals(reader)
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def _environment(found: Layout) -> dict[str, str]:
    """Ours without what would lead to another cluster; the credentials are those of this state folder."""
    hidden = {"HAKURIVER_HOST", "HAKURIVER_TOKEN", "HAKURIVER_STATE_DIR", "HAKURIVER_JSON"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"HAKURIVER_PATHS_CREDENTIALS_DIR": str(found.credentials)}


def _rotate(log: Path) -> None:
    """Keep one older piece of a log. Its daemon goes on appending to the same file, emptied."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_LIMIT:
            log.with_suffix(".log.1").write_bytes(log.read_bytes())
            os.truncate(log, 0)


def _say(text: str) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(f"{at} {text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    """``python -m daemons.supervisor``: started by ``hakuriver up``, with everything decided."""
    parser = argparse.ArgumentParser(prog="daemons.supervisor")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--host-port", type=int, required=True)
    parser.add_argument("--runner-port", type=int, required=True)
    parser.add_argument("--host-url", required=True)
    parser.add_argument("--runner-url", required=True)
    parser.add_argument("--config", type=Path)
    try:
        return run(Plan(**vars(parser.parse_args(arguments))))
    except Conflict as error:
        _say(error.message)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
