"""An engine that freezes around ``start`` while the runner is killed, or is killed itself: its containers
start once, and no byte of them is lost.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests import images
from tests.chaos.engine_proxy import EngineProxy
from tests.chaos.history import Job
from tests.chaos.lab import Lab, lab
from tests.chaos.test_streams import kill_runner, write_through
from tests.chaos.work import broken, heard, reaches, submit, task_of
from tests.runner.engines import OwnEngine

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts an engine of its own: needs root"),
]
LONG = os.environ.get("CHAOS") == "long"
ROUNDS = 60 if LONG else 4
TIMEOUT = 1.8  # seconds after which a silent node is missed


@pytest.fixture(scope="module")
def own(
    tmp_path_factory: pytest.TempPathFactory, busybox: str
) -> Iterator[tuple[OwnEngine, EngineProxy, Lab]]:
    """An engine that nobody else uses, and a runner that uses no other and speaks to it through a proxy."""
    folder = tmp_path_factory.mktemp("engine")
    engine = OwnEngine("--live-restore").start()
    proxy = EngineProxy(folder / "engine.sock", engine.url)
    try:
        images.busybox(engine.client)
        with lab(folder / "lab", seed=8, nodes=1, environ={"DOCKER_HOST": proxy.url}) as made:
            yield engine, proxy, made
    finally:
        engine.send(signal.SIGCONT)
        engine.wipe()
        proxy.close()


def _before(engine: OwnEngine, go: Callable[[], None]) -> None:
    """The request reaches an engine that is frozen already."""
    engine.send(signal.SIGSTOP)
    go()


def _amid(engine: OwnEngine, go: Callable[[], None]) -> None:
    """The engine freezes while it starts the container."""
    go()
    time.sleep(random.uniform(0, 0.1))
    engine.send(signal.SIGSTOP)


def _after(engine: OwnEngine, go: Callable[[], None]) -> None:
    """The container runs, and nobody is told so."""
    go()
    time.sleep(0.7)
    engine.send(signal.SIGSTOP)


@pytest.mark.timeout(600 if LONG else 120)
@pytest.mark.parametrize("moment", [_before, _amid, _after])
def test_frozen_at_its_start(
    own: tuple[OwnEngine, EngineProxy, Lab], busybox: str, moment: Callable[..., None]
) -> None:
    engine, proxy, made = own
    (runner,) = made.runners
    for turn in range(10 if LONG else 1):
        nonce = 1000 * (1 + (_before, _amid, _after).index(moment)) + 10 * turn
        jobs = {nonce: Job(nonce, 4.0, 5, "exit 7"), nonce + 1: Job(nonce + 1, 0.1, 5, "kill -SEGV $$")}
        reached = threading.Event()

        def start(go: Callable[[], None], reached: threading.Event = reached) -> None:
            moment(engine, go)
            reached.set()

        runs = submit(made, jobs[nonce], busybox)
        reaches(made, runs, "running")
        proxy.on_start = start
        starts = submit(made, jobs[nonce + 1], busybox)
        assert reached.wait(30), "the start was never asked for"
        frozen = time.monotonic()
        runner.kill9()
        runner.start()
        heard(made)
        time.sleep(max(0.0, frozen + 1.5 * TIMEOUT - time.monotonic()))  # so long it is frozen
        states = {task_of(made, task)["state"] for task in (runs, starts)}
        engine.send(signal.SIGCONT)
        assert states <= {"assigned", "preparing", "running", "pending"}, (
            "nothing is lost with a frozen engine"
        )
        assert broken(made, jobs, seconds=60) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("killed", [True, False] if LONG else [True])
def test_a_start_that_was_lost_is_given_up_although_the_engine_is_away(
    own: tuple[OwnEngine, EngineProxy, Lab], busybox: str, killed: bool
) -> None:
    _, proxy, made = own
    job = Job(5000 + killed, 0, 5, "exit 7")
    reached = threading.Event()

    def lost(go: Callable[[], None]) -> None:
        raise ConnectionAbortedError

    def at_the_removal() -> None:
        if killed:
            kill_runner(made)
        reached.set()

    proxy.on_start, proxy.on_remove = lost, at_the_removal
    task = submit(made, job, busybox)
    assert reached.wait(60), "its start is in doubt: it must not start any more, and make room"
    ended = reaches(made, task, "failed", "lost", seconds=60)
    assert (ended["state"], ended["exit_code"], ended["attempt"]) == ("failed", 7, 2)
    assert broken(made, {job.nonce: job}, seconds=60) == []


@pytest.mark.timeout(1200 if LONG else 120)
def test_frozen_at_any_time(own: tuple[OwnEngine, EngineProxy, Lab], busybox: str) -> None:
    engine, _, made = own
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
    assert broken(made, jobs, seconds=60) == []


@pytest.mark.timeout(300)
def test_killed_while_a_container_writes(own: tuple[OwnEngine, EngineProxy, Lab], busybox: str) -> None:
    engine, _, made = own
    turns = itertools.count()

    def hurt() -> None:
        both = next(turns) % 2
        engine.stop(signal.SIGKILL)
        if both:
            kill_runner(made)
        engine.start()

    write_through(made, busybox, 9000, hurt)
