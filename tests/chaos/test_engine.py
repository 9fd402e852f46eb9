"""An engine that freezes around ``start`` while the runner is killed: each container still starts once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import images
from tests.chaos.history import Job
from tests.chaos.lab import Lab, lab
from tests.chaos.work import settled, submit
from tests.runner.engines import OwnEngine

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts an engine of its own: needs root"),
]
ROUNDS = 60 if os.environ.get("CHAOS") == "long" else 6


@pytest.fixture
def own(tmp_path: Path, busybox: str) -> Iterator[tuple[OwnEngine, Lab]]:
    """An engine that nobody else uses, and a runner that uses no other."""
    engine = OwnEngine("--live-restore").start()
    try:
        images.busybox(engine.client)
        with lab(tmp_path / "lab", seed=8, nodes=1, environ={"DOCKER_HOST": engine.url}) as made:
            yield engine, made
    finally:
        engine.send(signal.SIGCONT)
        engine.wipe()


@pytest.mark.timeout(1200 if ROUNDS > 6 else 120)
def test_started_once(own: tuple[OwnEngine, Lab], busybox: str) -> None:
    engine, made = own
    (runner,) = made.runners
    seed = int(os.environ.get("SEED") or time.time())
    print(f"SEED={seed}")
    source = random.Random(seed)
    jobs: dict[int, Job] = {}
    for turn in range(ROUNDS):
        for nonce in (2 * turn, 2 * turn + 1):
            jobs[nonce] = Job(nonce, 0.2, 5, source.choice(("exit 0", "exit 7", "kill -SEGV $$")))
            submit(made, jobs[nonce], busybox)
        time.sleep(source.uniform(0, 0.5))  # any moment of create, start and run
        engine.send(signal.SIGSTOP)
        time.sleep(source.uniform(0, 0.3))
        runner.kill9()
        runner.start()
        time.sleep(source.uniform(0, 1.5))
        engine.send(signal.SIGCONT)
    assert settled(made, jobs, seconds=60) == []
