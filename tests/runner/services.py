"""Runners that are services of a machine with systemd, and tasks that are its units."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tests.runner.machines import UID, Machine
from tests.runner.peer import START, Host, Runner, eventually

_ROOT = Path(__file__).resolve().parents[2]
LOOP = "while :; do echo tick; sleep 0.05; done"


@dataclass
class ServiceRunner(Runner):
    """A runner that is a service of a machine. ``user``: whom it runs as."""

    machine: Machine | None = None
    user: str = "root"

    _count: ClassVar[int] = 0
    _unit: str = ""

    @property
    def on(self) -> Machine:
        assert self.machine is not None
        return self.machine

    def launch(self) -> None:
        flags = {"network.runner_port": 0, "node.name": "n1"} | self.flags
        self.state.mkdir(parents=True, exist_ok=True)
        if self.user != "root":
            os.chown(self.state, UID, UID)
        ServiceRunner._count += 1
        self._unit = f"runner{self._count}.service"
        words = ["systemd-run", "--quiet", f"--unit={self._unit}", "--service-type=exec"]
        words += [f"--property=User={self.user}", f"--property=StandardOutput=append:{self.state}/runner.out"]
        words += ["--property=StandardError=inherit", f"--property=WorkingDirectory={_ROOT}", "--"]
        state = str(self.state).replace("$", "$$")
        self.on.run(*words, sys.executable, "-c", START, state, self.host.url, json.dumps(flags))

    def _dead(self) -> bool:
        return self.on.try_run("systemctl", "is-active", "--quiet", self._unit)[0] != 0

    def stop(self, number: int = signal.SIGTERM) -> int:
        """As its service is stopped, or killed."""
        if number == signal.SIGKILL:
            self.on.run("systemctl", "kill", "--signal=SIGKILL", self._unit)
            eventually(self._dead, what="the runner's end")
            return -number
        self.on.run("systemctl", "stop", self._unit)
        return 0

    def close(self) -> None:
        if not self._dead():
            self.crash()

    def pids(self, task: int) -> list[int]:
        return self.on.pids(f"HAKURIVER_TASK_ID={task}")

    def facts(self) -> dict[str, Any]:
        """As it introduced itself last."""
        found: dict[str, Any] = self.host.registrations[-1]["facts"]
        return found


@contextmanager
def running(machine: Machine, name: str, user: str = "root", **flags: str) -> Iterator[ServiceRunner]:
    """A runner on a machine."""
    host = Host()
    found = ServiceRunner(machine.shared / name, host, machine=machine, user=user)
    found.flags = {key.replace("__", "."): value for key, value in flags.items()}
    try:
        found.start()
        yield found
    finally:
        found.close()
        host.close()


def submit(runner: ServiceRunner, *command: str, **facts: object) -> int:
    return runner.submit(*command, executor="systemd", **facts)


def read(runner: ServiceRunner, task: int) -> bytes:
    """What it has written, for those who wait for it."""
    return runner.logs(task).data


def unit(task: int) -> str:
    return f"hakuriver-c0ffee00-{task}-1.service"


def tail(runner: ServiceRunner, task: int) -> list[str]:
    """The lines of an ended task."""
    runner.host.end(task)
    return runner.whole_log(task).decode().splitlines()


def released(runner: ServiceRunner, task: int) -> None:
    eventually(lambda: unit(task) not in runner.on.units(), what="the unit's release")
