"""A real cluster in a folder: the real command line, real daemons, real signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hakuriver import statedir
from hakuriver.lifecycle import ENDED
from tests.waiting import until

HAKURIVER = str(Path(sys.executable).with_name("hakuriver"))
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "USER", "LOGNAME")


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Cluster:
    """``hakuriver up --headless`` in ``folder``; every test that starts one stops it."""

    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    cpus: set[int] | None = None

    @property
    def layout(self) -> statedir.Layout:
        return statedir.layout(self.folder)

    def env(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        # the machine's own config must not reach a test
        config = self.folder.parent / f"{self.folder.name}.toml"
        config.touch()
        alone = {"HAKURIVER_CONFIG": str(config), "HAKURIVER_DOCKER_INITIAL_BASE_IMAGE": ""}
        return kept | alone | dict(self.environ)

    def cli(
        self, *arguments: str, stdin: bytes | None = None, timeout: float = 90, cwd: Path | None = None
    ) -> Result:
        """Run the command line as a person would, against this cluster."""
        done = subprocess.run(
            [HAKURIVER, "--state-dir", str(self.folder), *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            env=self.env(),
            cwd=cwd,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """The command line in the background, with pipes."""
        return subprocess.Popen(
            [HAKURIVER, "--state-dir", str(self.folder), *arguments],
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env(),
            **options,
        )

    def ok(self, *arguments: str, **options: Any) -> Any:
        """JSON of a command that must succeed."""
        result = self.cli("--json", *arguments, **options)
        assert result.code == 0, (arguments, result)
        return result.json

    def up(self) -> None:
        cpus = self.cpus
        set_cpus: Callable[[], None] | None = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
        done = subprocess.run(
            [HAKURIVER, "--state-dir", str(self.folder), "up", "--headless"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            env=self.env(),
            preexec_fn=set_cpus,
            check=False,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)

    def down(self, *, kill: bool = True) -> None:
        result = self.cli("down", *(["--kill"] if kill else []))
        assert result.code == 0, result

    def submit(self, *command: str, flags: Sequence[str] = ()) -> int:
        (task,) = self.ok("task", "submit", *flags, "--", *command)
        return int(task["id"])

    def show(self, task: int) -> dict[str, Any]:
        found: dict[str, Any] = self.ok("task", "show", str(task))
        return found

    def wait(self, *tasks: int, timeout: float = 60) -> list[dict[str, Any]]:
        """Wait for ends through the product's own wait; returns the tasks."""
        result = self.cli("task", "wait", "--timeout", f"{timeout}s", *map(str, tasks), timeout=timeout + 20)
        shown = self.ok("task", "show", *map(str, tasks))
        found = [shown] if len(tasks) == 1 else shown
        assert all(task["state"] in set(ENDED) for task in found), (result, found)
        return found

    def running(self, task: int) -> dict[str, Any]:
        return until(
            lambda: found if (found := self.show(task))["state"] == "running" else None,
            f"task {task} runs",
            seconds=30,
        )

    def log(self, task: int, *flags: str) -> bytes:
        result = self.cli("task", "logs", str(task), *flags)
        assert result.code == 0, result
        return result.out

    def daemons(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.layout.cluster_file.read_text())
        return found

    def pid(self, daemon: str) -> int:
        return int(self.daemons()[daemon]["pid"])

    def kill9(self, *daemons: str) -> None:
        """kill -9, and wait until the supervisor has put another in its place that answers."""
        old = {daemon: self.pid(daemon) for daemon in daemons}
        for pid in old.values():
            os.kill(pid, signal.SIGKILL)
        until(
            lambda: all(
                (self.daemons()[daemon].get("pid") or old[daemon]) != pid for daemon, pid in old.items()
            ),
            f"new {daemons}",
            seconds=30,
        )
        until(self.online, "the node is online again", seconds=30)

    def online(self) -> bool:
        result = self.cli("--json", "nodes")
        return result.code == 0 and [node["state"] for node in result.json] == ["online"]


def end_all(state: Path) -> None:
    """What a runner leaves running when it stops: its tasks, and what looks after them."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mine = str(state).encode() in (process / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if mine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
