"""Tasks that end while the runner, the host or both are dead: what is told is what happened."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.lab import Lab, lab, online
from tests.chaos.work import contained, reaches, runs
from tests.waiting import until

MIB = 2**20
HOG = f"data = bytearray({200 * MIB}); import time; time.sleep(60)"
Told = tuple[str, int | None, int | None]
DOWN = pytest.mark.parametrize("down", ["runner", "host", "both"])


@dataclass(frozen=True)
class Case:
    """How a task ends once its gate is open, and what must be told of it."""

    end: str
    process: Told
    docker: Told
    memory: int = 0


CASES = (
    Case("exit 0", ("completed", 0, None), ("completed", 0, None)),
    Case("exit 7", ("failed", 7, None), ("failed", 7, None)),
    Case("exit 139", ("failed", 139, None), ("failed", 139, None)),
    Case("kill -SEGV $$", ("failed", None, 11), ("failed", 139, None)),
    Case("killed by a stranger", ("failed", None, 9), ("failed", 137, None)),
    Case("eat", ("killed_oom", None, 9), ("killed_oom", 137, None), memory=64 * MIB),
)


def command(case: Case, gate: str, docker: bool) -> list[str]:
    """A task that says its pid, waits at the gate and ends."""
    hog = "exec tail /dev/zero sh $1" if docker else f'exec {sys.executable} -S -c "{HOG}" sh $1'
    end = {"killed by a stranger": "touch $1.waits; while :; do sleep 0.2; done", "eat": hog}.get(
        case.end, case.end
    )
    return ["sh", "-c", f"echo $$; while [ ! -e $1 ]; do sleep 0.05; done; {end}", "sh", gate]


def _processes(gate: str) -> dict[int, bytes]:
    """Command lines of the tasks that wait at a gate."""
    found = {}
    for proc in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (proc / "cmdline").read_bytes() if proc.name.isdigit() else b""
            if line.endswith(b"\0sh\0" + gate.encode() + b"\0"):
                found[int(proc.name)] = line
    return found


def ends(made: Lab, down: str, kind: str | None) -> dict[str, Told]:
    """Run all cases through one outage; what is told of them."""
    docker = contained(kind)
    name = f"gate-{down}-{'docker' if docker else kind}"
    gate = made.journal.parent / name
    seen_inside = f"/shared/{name}" if docker else str(gate)
    tasks = {}
    for number, case in enumerate(CASES):
        body: dict[str, Any] = {"command": command(case, seen_inside, docker), "cores": 0} | runs(kind)
        body |= {"memory": case.memory, "name": f"end-{number}"}
        tasks[case] = made.submit(hash((name, number)), body, time.monotonic() + 60)
    for task in tasks.values():
        reaches(made, task, "running")
    victims = {"runner": made.runners, "host": [made.host], "both": made.daemons}[down]
    for victim in victims:
        victim.kill9()
    gate.touch()
    until(Path(f"{gate}.waits").exists, "one task waits for a stranger")
    for pid, line in _processes(seen_inside).items():
        if b"$1.waits" in line:
            with contextlib.suppress(ProcessLookupError):  # ended with its parent, which came first
                os.kill(pid, signal.SIGKILL)
    until(lambda: not _processes(seen_inside), "all tasks have ended", seconds=30)
    for victim in victims:
        victim.start()
    until(lambda: online(made) == len(made.runners), "everything is up again", seconds=30)
    told = {}
    for case, task in tasks.items():
        found = reaches(made, task, "completed", "failed", "killed", "killed_oom", "lost")
        told[case.end] = (found["state"], found["exit_code"], found["signal"])
    return told


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A host and one runner, started again by every test."""
    with lab(tmp_path_factory.mktemp("ends") / "lab", seed=2, nodes=1) as made:
        yield made


@DOWN
def test_processes(one: Lab, down: str) -> None:
    assert ends(one, down, None) == {case.end: case.process for case in CASES}


@DOWN
@pytest.mark.docker
def test_containers(one: Lab, down: str, busybox: str) -> None:
    assert ends(one, down, busybox) == {case.end: case.docker for case in CASES}
