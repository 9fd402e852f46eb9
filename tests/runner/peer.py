"""A host that speaks the wire protocol and writes everything down, and a runner process that talks to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from daemons.runner import cgroups
from hakuriver import statedir
from hakuriver.api import Client
from hakuriver.nodewire import AttemptSpec
from hakuriver.paths import HEADER_ENDED, HEADER_OFFSET, HEADER_SIZE, runner_path

CLUSTER = "c0ffee00c0ffee00"
FINAL = {"completed", "failed", "killed", "killed_oom", "timed_out", "lost", "pending"}
T = TypeVar("T")


def eventually(look: Callable[[], T | None], timeout: float = 40, what: str = "it") -> T:
    """What ``look`` returns as soon as that is something; fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout} s"
        time.sleep(0.01)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A runner that is killed breaks its connections: nothing to say about that."""


class Host:
    """Answers registrations, heartbeats and reports as a host does."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.registrations: list[dict[str, Any]] = []
        self.heartbeats: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.deliveries = 0  # reports as they came in, repeats included
        self.goodbyes = 0
        self.down = False  # answer 503 to everything
        self.lose_answers = 0  # take so many report batches and break the connection instead of answering
        self.cluster = CLUSTER
        self.epoch = 1
        self.lease = 60.0
        self.forgiving = False  # reports may come without those before them
        self.refusing: set[int] = set()  # tasks whose reports are refused
        self._server = _Server(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with host.changed:
                    answer = None if host.down else host.answer(self.path, body)
                    host.changed.notify_all()
                if answer is host:
                    self.close_connection = True
                    return
                data = json.dumps(answer or {"error": {"code": "x", "message": "down", "hint": ""}}).encode()
                self.send_response(503 if answer is None else 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        verb = path.rpartition("/")[2]
        if verb == "register":
            self.registrations.append(body)
            return {
                "cluster": self.cluster,
                "epoch": self.epoch,
                "heartbeat_interval": 0.2,
                "lease": self.lease,
            }
        if verb == "heartbeat":
            self.heartbeats.append(body)
            return {"epoch": self.epoch, "introduce": False}
        if verb == "goodbye":
            self.goodbyes += 1
            return {"ok": True}
        assert verb == "reports", path
        results = []
        for report in body["reports"]:
            self.deliveries += 1
            key = (report["task"], report["attempt"], report["sequence"])
            if report["task"] in self.refusing:
                results.append(dict(zip(("task", "attempt", "sequence"), key, strict=True)))
                results[-1] |= {"result": "refused", "message": "its task moved on"}
                continue
            known = any((r["task"], r["attempt"], r["sequence"]) == key for r in self.reports)
            if not known:
                last = max((r["sequence"] for r in self.of(*key[:2])), default=0)
                assert self.forgiving or report["sequence"] == last + 1, "reports of an attempt come in order"
                self.reports.append(report)
            results.append(dict(zip(("task", "attempt", "sequence"), key, strict=True)))
            results[-1]["result"] = "duplicate" if known else "applied"
        if self.lose_answers:
            self.lose_answers -= 1
            return self
        return {"results": results}

    def of(self, task: int, attempt: int = 1) -> list[dict[str, Any]]:
        return [r for r in self.reports if (r["task"], r["attempt"]) == (task, attempt)]

    def wait(self, look: Callable[[], T | None], timeout: float = 40, what: str = "it") -> T:
        """Like ``eventually``, woken by every request."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while not (found := look()):
                left = deadline - time.monotonic()
                assert left > 0, f"{what} did not happen within {timeout} s; reports: {self.reports[-5:]}"
                self.changed.wait(left)
            return found

    def state(self, task: int, state: str, attempt: int = 1, timeout: float = 40) -> dict[str, Any]:
        """The report of a state, once it came."""
        return self.wait(
            lambda: next((r for r in self.of(task, attempt) if r["state"] == state), None),
            timeout,
            f"{state} of {task}.{attempt}",
        )

    def end(self, task: int, attempt: int = 1, timeout: float = 40) -> dict[str, Any]:
        """The final report, once it came."""
        return self.wait(
            lambda: next((r for r in self.of(task, attempt) if r["state"] in FINAL), None),
            timeout,
            f"the end of {task}.{attempt}",
        )


START = """
import sys, json
from pathlib import Path
from hakuriver import config, statedir
from hakuriver.errors import HakuRiverError
from daemons.runner.main import run
state, host, flags = sys.argv[1:]
try:
    sys.exit(run(config.load(environ={}, flags=json.loads(flags)), statedir.layout(Path(state)),
                 host_url=host, embedded=True, insecure_bind=False))
except HakuRiverError as error:
    print(error.to_json(), file=sys.stderr)
    sys.exit(error.exit_code)
"""


@dataclass
class Runner:
    """A runner of its own process, state folder and host."""

    state: Path
    host: Host
    flags: dict[str, Any] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    next_task: int = 1

    @property
    def layout(self) -> statedir.Layout:
        return statedir.layout(self.state)

    @property
    def log(self) -> str:
        return (self.state / "runner.out").read_text(errors="replace")

    def start(self) -> Runner:
        before = len(self.host.registrations)
        self.launch()
        self.host.wait(lambda: len(self.host.registrations) > before or self._dead(), what="registration")
        assert not self._dead(), self.log
        return self

    def launch(self) -> None:
        """Start the process without waiting for anything."""
        flags = {"network.runner_port": 0, "node.name": "n1"} | self.flags
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "runner.out").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *self.prefix,
                    sys.executable,
                    "-c",
                    START,
                    str(self.state),
                    self.host.url,
                    json.dumps(flags),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"SECRET_OF_THE_DAEMON": "x"} | self.environ,
            )

    def _dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    @property
    def client(self) -> Client:
        token = statedir.read_token(self.layout.host_token)
        return Client(self.host.registrations[-1]["address"], token)

    def crash(self) -> None:
        """kill -9."""
        self.stop(signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(10)

    def close(self) -> None:
        """End the runner and all that it keeps: tests leave nothing behind."""
        if not self._dead():
            self.crash()
        for pid in processes_of(None, self.state):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        groups = cgroups.find(self.host.registrations[-1]["runner"]) if self.host.registrations else None
        for parent in filter(None, (groups.memory, groups.cpu) if groups is not None else ()):
            for each in (*parent.path.glob("*.*"), parent.path):
                with contextlib.suppress(OSError):
                    each.rmdir()

    # ---- what a host does

    def spec(self, *command: str, **facts: Any) -> AttemptSpec:
        given: dict[str, Any] = {
            "task": self.next_task,
            "attempt": 1,
            "owner": "alice",
            "executor": "process",
        }
        given |= {"cores": 0, "memory": 0, "target": "n1", "command": list(command)} | facts
        self.next_task = max(self.next_task, int(given["task"])) + 1
        return AttemptSpec.model_validate(given)

    def put(self, spec: AttemptSpec, *, intent: dict[str, Any] | None = None, **changes: Any) -> Any:
        body = {"cluster": CLUSTER, "epoch": 1, "digest": spec.digest(), "spec": spec.model_dump(mode="json")}
        body |= {"intent": intent} | changes
        path = runner_path("order", task=spec.task, attempt=spec.attempt)
        return self.client.request("PUT", path, body=body)

    def submit(self, *command: str, **facts: Any) -> int:
        """Order a new task; its number."""
        spec = self.spec(*command, **facts)
        assert self.put(spec)["accepted"] is True
        return spec.task

    def run(self, *command: str, **facts: Any) -> dict[str, Any]:
        """Order a new task and wait for its end."""
        return self.host.end(self.submit(*command, **facts))

    def intend(self, task: int, intent: str, version: int = 1, grace: float = 5, attempt: int = 1) -> None:
        body = {"version": version, "intent": intent, "by": "bob", "grace": grace}
        self.client.request("PUT", runner_path("intent", task=task, attempt=attempt), body=body)

    def kill(self, task: int, version: int = 1, grace: float = 5) -> dict[str, Any]:
        """Kill and wait for the end."""
        self.intend(task, "kill", version, grace)
        return self.host.end(task)

    def signal(self, task: int, number: int) -> None:
        self.client.request("POST", runner_path("signal", task=task, attempt=1), body={"signal": number})

    def stdin(self, task: int, data: bytes, offset: int = 0, *, eof: bool = False) -> int:
        answer = self.client.request(
            "POST",
            runner_path("stdin", task=task, attempt=1),
            query={"offset": offset, "eof": int(eof)},
            body=data,
        )
        return int(answer["offset"])

    def logs(self, task: int, stream: str = "stdout", attempt: int = 1, **query: Any) -> LogAnswer:
        path = runner_path("logs", task=task, attempt=attempt, stream=stream)
        with self.client.open("GET", path, query=query, timeout=40) as response:
            data = response.read()
            return LogAnswer(
                data,
                int(response.headers[HEADER_OFFSET]),
                int(response.headers[HEADER_SIZE]),
                response.headers[HEADER_ENDED] == "1",
            )

    def whole_log(self, task: int, stream: str = "stdout") -> bytes:
        """All bytes, read as a follower reads them."""
        found, offset = b"", 0
        while True:
            part = self.logs(task, stream, offset=offset, wait=10)
            assert part.offset == offset
            found += part.data
            offset += len(part.data)
            if part.ended and offset >= part.size:
                return found

    def folder(self, task: int, attempt: int = 1) -> Path:
        return self.layout.attempts / f"{task}.{attempt}"

    def pids(self, task: int) -> list[int]:
        """Live processes of a task."""
        return processes_of(str(task), self.state)


@dataclass(frozen=True)
class LogAnswer:
    data: bytes
    offset: int
    size: int
    ended: bool


def processes_of(task: str | None, state: Path) -> list[int]:
    """Live processes whose environment says that they belong to a task (any: None) of a state folder."""
    marks = {b"HAKURIVER_LOCAL_TEMP_DIR=" + os.fsencode(statedir.layout(state).temp)}
    if task is not None:
        marks.add(f"HAKURIVER_TASK_ID={task}".encode())
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            env = (folder / "environ").read_bytes().split(b"\0")
            alive = (folder / "stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
        except OSError:
            continue
        if alive and marks <= set(env):
            found.append(int(folder.name))
    return found


def cmdline_pids(marker: str) -> list[int]:
    """Processes with a text in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
