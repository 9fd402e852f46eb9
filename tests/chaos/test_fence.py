"""A node that hears nothing: what ran there is dead before it starts elsewhere, by its own written word."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from hakuriver.paths import host_path
from tests.chaos.lab import Lab, lab, online
from tests.chaos.proxy import Mood, Proxy
from tests.chaos.work import SYSTEMD, reaches, runs, task_of
from tests.runner.machines import Machine
from tests.waiting import until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root's runner can fence containers"),
]
LEASE = 5.0  # more than heartbeats of a busy machine may be late
CUT, FINE = Mood(cut=True), Mood()


def sweep(engine: docker.DockerClient, folder: Path) -> None:
    """Remove containers that see anything of a folder: a test that failed leaves some."""
    for each in engine.api.containers(all=True):
        if any(mount.get("Source", "").startswith(str(folder)) for mount in each["Mounts"]):
            with suppress(APIError):  # the engine may be removing it at this moment
                engine.api.remove_container(each["Id"], force=True)


@pytest.fixture
def ways(tmp_path: Path, engine: docker.DockerClient, busybox: str) -> Iterator[tuple[Lab, dict[str, Proxy]]]:
    """Two nodes with an engine, two with a systemd, each with a way of its own to the host, which can be
    cut."""
    environ = {"HAKURIVER_TIMING_LEASE": str(LEASE)}
    with Machine(engine, tmp_path) as machine, ExitStack() as stack:
        folder, homes = tmp_path / "lab", {"n2": machine, "n3": machine}
        made = stack.enter_context(lab(folder, seed=5, nodes=4, environ=environ, homes=homes))
        stack.callback(sweep, engine, folder)
        found = {}
        for runner in made.runners:
            way = found[runner.name] = Proxy(made.seed)
            stack.callback(way.close)
            way.upstream = made.to_host.upstream
            runner.kill9()
            runner.arguments[runner.arguments.index("--host") + 1] = f"http://127.0.0.1:{way.port}"
            runner.start()
        until(lambda: online(made) == 4, "all are online by their own ways", seconds=30)
        yield made, found


def ticks(made: Lab, kind: str) -> str:
    """The attempts of a task, a digit each time that one wrote its own down."""
    file = made.journal.parent / kind
    return file.read_text().replace("\n", "") if file.exists() else ""


def fence_heard(made: Lab, task: int) -> None:
    """Wait until the host has stored that the fence lives: what is lost before that stays."""
    reaches(made, task, "running")
    with closing(sqlite3.connect(f"file:{made.layout('host').database}?mode=ro", uri=True)) as store:
        query = "SELECT fence FROM attempt WHERE task = ?"
        until(lambda: store.execute(query, (task,)).fetchone()[0], f"the fence of {task}", seconds=30)


def _ticks_twice(made: Lab, kind: str) -> bool:
    return ticks(made, kind).count("2") > 9


def _weather(made: Lab, to_host: dict[str, Proxy], nodes: set[str], mood: Mood) -> None:
    for node in nodes:
        to_host[node].mood = made.to_runners[int(node[1:])].mood = mood


@pytest.mark.timeout(120)
def test_dead_before_it_starts_elsewhere(ways: tuple[Lab, dict[str, Proxy]], busybox: str) -> None:
    made, to_host = ways
    script = 'while :; do echo "$HAKURIVER_ATTEMPT" >>"$HAKURIVER_SHARED_DIR/$0"; sleep 0.02; done'
    tasks = {}
    for nonce, (name, kind) in enumerate({"container": busybox, "unit": SYSTEMD, "process": None}.items()):
        body = {"command": ["sh", "-c", script, name], "cores": 0, "on_node_loss": "requeue"} | runs(kind)
        tasks[name] = made.submit(nonce, body, time.monotonic() + 30)
    for task in tasks.values():
        fence_heard(made, task)
    places = {kind: task_of(made, task)["node"] for kind, task in tasks.items()}
    cut = {places["container"], places["unit"]}
    _weather(made, to_host, cut, CUT)
    for kind in ("container", "unit"):
        until(partial(_ticks_twice, made, kind), f"the {kind} runs elsewhere", seconds=60)
    _weather(made, to_host, cut, FINE)
    until(lambda: online(made) == 4, "they are back", seconds=30)
    count = len(ticks(made, "container"))
    until(lambda: len(ticks(made, "container")) > count + 50, "it goes on for a while", seconds=30)
    for kind, task in tasks.items():
        moved = places[kind] in cut
        seen, shown = ticks(made, kind), task_of(made, task)
        assert seen == "1" * seen.count("1") + "2" * seen.count("2"), f"{kind}: two at a time"
        assert (shown["state"], shown["attempt"]) == ("running", 2 if moved else 1)
        assert ("2" in seen) == moved
        made.ask("POST", host_path("kill", id=task))
        reaches(made, task, "killed")
