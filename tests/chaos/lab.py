"""A host and some runners as plain processes, with a bad network between them, to be hurt on purpose."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hakuriver import statedir
from hakuriver.api import Client
from hakuriver.errors import CannotFit, HakuRiverError, Unreachable
from hakuriver.paths import HEADER_ENDED, HEADER_IDEMPOTENCY, HEADER_OFFSET, host_path
from tests.chaos.proxy import Mood, Proxy
from tests.chaos.wires import Wires
from tests.e2e.cluster import HAKURIVER
from tests.runner.machines import Inhabitant, Machine
from tests.waiting import until

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR")
TIMING = {
    "HAKURIVER_TIMING_HEARTBEAT_INTERVAL": "0.3",
    "HAKURIVER_TIMING_HEARTBEAT_TIMEOUT_FACTOR": "6",
    "HAKURIVER_TIMING_LEASE": "2",  # less than many faults last, so fences have work
}

# libfaketime breaks time.sleep, which the standard library uses: sleep by another call
_HURRY = """
import select, time
time.sleep = lambda seconds: select.select([], [], [], max(0.0, seconds)) and None
from daemons.host import retention as of_host
from daemons.runner import retention as of_runner
from hakuriver.cli.main import run
of_host._FIRST_SECONDS = of_host._EACH_SECONDS = of_runner.INTERVAL = 0.2
run()
"""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@dataclass
class Daemon:
    """One daemon that is started again as often as it is killed."""

    name: str
    arguments: list[str]
    environ: dict[str, str]
    log: Path
    machine: Machine | None = None
    """Where it lives; this one where there is none."""
    process: subprocess.Popen[bytes] | Inhabitant | None = None
    kills: int = 0

    def memory(self) -> tuple[int, int]:
        """Process id and resident KiB."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return self.process.pid, int(text.partition("VmRSS:")[2].split()[0])

    def start(self) -> None:
        if self.machine is not None:
            self.process = self.machine.spawn(self.arguments, self.environ, self.log)
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environ
            )

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill9(self) -> None:
        """kill -9, frozen or not, and wait until it is gone."""
        assert self.process is not None
        self.send(signal.SIGKILL)
        self.process.wait(10)
        self.kills += 1

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill9()


@dataclass
class Lab:
    """Made by ``lab``; with ``proxies`` all ways between host and runners lead through one each way."""

    folder: Path
    seed: int
    host: Daemon
    runners: list[Daemon]
    proxies: list[Proxy]
    client: Client
    journal: Path

    @property
    def daemons(self) -> list[Daemon]:
        return [self.host, *self.runners]

    @property
    def to_host(self) -> Proxy:
        return self.proxies[0]

    @property
    def to_runners(self) -> list[Proxy]:
        return self.proxies[1:]

    def layout(self, name: str) -> statedir.Layout:
        """The state folder of ``host`` or of a node."""
        return statedir.layout(self.folder / name)

    def attempt_folder(self, node: str, task: int, number: int = 1) -> Path:
        """Where a node keeps an attempt."""
        return self.layout(node).attempts / f"{task}.{number}"

    @property
    def locks(self) -> Path:
        """A file for each nonce, which is open as 9 in all that lives of that task."""
        return Path(f"{self.journal}.locks")

    def alive(self) -> set[int]:
        """The nonces of which something runs at this moment, in a container or not."""
        files = {path.stat().st_ino: int(path.name) for path in self.locks.iterdir()}
        found = set()
        for opened in Path("/proc").glob("[0-9]*/fd/9"):
            with contextlib.suppress(OSError):
                facts = opened.stat()
                if facts.st_dev == self.locks.stat().st_dev and facts.st_ino in files:
                    found.add(files[facts.st_ino])
        return found

    def weather(self, mood: Mood) -> None:
        """The same network everywhere."""
        for proxy in self.proxies:
            proxy.mood = mood

    def submit(self, nonce: int, body: dict[str, Any], deadline: float) -> int:
        """Submit until it is answered, with one idempotency key; the id."""
        while True:
            with contextlib.suppress(Unreachable, CannotFit):  # engines, too, may not answer for a while
                answer = self.client.request(
                    "POST",
                    host_path("submit"),
                    body=body,
                    headers={HEADER_IDEMPOTENCY: f"{self.seed}-{nonce}"},
                    timeout=5,
                )
                return int(answer["tasks"][0]["id"])
            assert time.monotonic() < deadline, "a submit was never answered"
            time.sleep(0.05)

    def ask(self, method: str, path: str, query: dict[str, Any] | None = None) -> Any:
        """A request of the end of a run, when everything is up again."""

        def once() -> list[Any]:
            try:
                return [self.client.request(method, path, query=query)]
            except Unreachable:
                return []

        return until(once, f"{method} {path} is answered", seconds=30)[0]

    def tasks(self) -> Iterator[dict[str, Any]]:
        """All tasks, page by page."""
        cursor: str | None = None
        while True:
            page = self.ask("GET", host_path("tasks"), {"limit": 1000, "cursor": cursor})
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def log(self, task: int, stream: str) -> bytes:
        """A whole stream, by ranged reads."""
        whole = b""
        deadline = time.monotonic() + 60
        while True:
            query = {"offset": len(whole), "wait": 2}
            try:
                with self.client.open(
                    "GET", host_path("logs", id=task, stream=stream), query=query
                ) as response:
                    assert int(response.headers[HEADER_OFFSET]) == len(whole), "a hole below the cap"
                    part, ended = response.read(), response.headers[HEADER_ENDED] == "1"
            except HakuRiverError:
                part, ended = b"", False
            whole += part
            if ended and not part:
                return whole
            assert time.monotonic() < deadline, f"{stream} of {task} never ended: {len(whole)} bytes"


@contextlib.contextmanager
def lab(
    folder: Path,
    seed: int,
    nodes: int = 2,
    environ: Mapping[str, str] | None = None,
    wires: Wires | None = None,
    hurry: bool = False,
    homes: Mapping[str, Machine] | None = None,
) -> Iterator[Lab]:
    """Host and runners, each with its own state folder; ``environ`` is added to that of all.

    On loopback with proxies between them, or with ``wires`` each in a network namespace, the caller in the
    host's. In a ``hurry`` they look for what is to be forgotten all the time, not every hour. Nodes that
    have ``homes`` live there, and ``folder`` is in what those share.
    """
    base = _environ(folder, environ or {})
    host_port = free_port()
    host = Daemon(
        "host",
        [HAKURIVER, "host", "--state-dir", str(folder / "host"), "--port", str(host_port), "--embedded"],
        base,
        folder / "host.log",
    )
    names = [f"n{number}" for number in range(nodes)]
    runners = [
        Daemon(
            name,
            [HAKURIVER, "runner", "--state-dir", str(folder / name), "--name", name],
            dict(base),
            folder / f"{name}.log",
            (homes or {}).get(name),
        )
        for name in names
    ]
    if hurry:
        for daemon in (host, *runners):
            daemon.arguments[:1] = [sys.executable, "-c", _HURRY]
    proxies = _wire(wires, host, host_port, runners) if wires else _by_proxies(seed, host_port, runners)
    token = statedir.read_token(folder / "credentials" / "user.token")
    client = Client(f"http://127.0.0.1:{host_port}", token, timeout=10)
    made = Lab(folder, seed, host, runners, proxies, client, folder / "shared" / "journal")
    made.journal.parent.mkdir(exist_ok=True)
    made.journal.touch()
    made.locks.mkdir(exist_ok=True)
    try:
        for daemon in made.daemons:
            daemon.start()
        until(lambda: online(made) == nodes, "all nodes are online", seconds=30)
        yield made
    finally:
        for daemon in made.daemons:
            daemon.stop()
        for proxy in made.proxies:
            proxy.close()


def _environ(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Make the folder, its config and its credentials; the environment of its daemons."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").touch()
    credentials = folder / "credentials"
    for name in ("user", "node", "host"):
        statedir.ensure_token(credentials / f"{name}.token")
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    kept |= TIMING | {"HAKURIVER_PATHS_CREDENTIALS_DIR": str(credentials)} | dict(more)
    return kept | {
        "HAKURIVER_PATHS_SHARED_DIR": str(folder / "shared"),
        "HAKURIVER_CONFIG": str(folder / "config.toml"),
    }


def _by_proxies(seed: int, host_port: int, runners: list[Daemon]) -> list[Proxy]:
    """Put a proxy before each daemon on loopback; that of the host comes first."""
    to_host, *to_runners = proxies = [Proxy(seed + number) for number in range(len(runners) + 1)]
    to_host.upstream = host_port
    for runner, proxy in zip(runners, to_runners, strict=True):
        proxy.upstream = free_port()
        runner.arguments += ["--port", str(proxy.upstream), "--host", f"http://127.0.0.1:{to_host.port}"]
        runner.environ["HAKURIVER_NETWORK_RUNNER_ADDRESS"] = f"127.0.0.1:{proxy.port}"
    return proxies


def _wire(wires: Wires, host: Daemon, host_port: int, runners: list[Daemon]) -> list[Proxy]:
    """Put each daemon in a namespace of its own, on real addresses."""
    everywhere = ["--bind", "0.0.0.0", "--insecure-bind"]
    host.arguments = [*wires.command("host"), *host.arguments, *everywhere]
    for runner in runners:
        to_host = ["--host", f"http://{wires.address('host')}:{host_port}", "--port", str(free_port())]
        runner.arguments = [*wires.command(runner.name), *runner.arguments, *to_host, *everywhere]
    return []


def online(made: Lab) -> int:
    """How many nodes the host sees."""
    try:
        nodes = made.client.request("GET", host_path("nodes"))
    except Unreachable:
        return 0
    return sum(node["state"] == "online" for node in nodes)
