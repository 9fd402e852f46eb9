"""kill -9 of the host at random moments while many submit: what was accepted is there, once, for ever."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.lab import Lab, lab

LONG = os.environ.get("CHAOS") == "long"
SUBMITS, KILLS = (10_000, 300) if LONG else (500, 15)
CLIENTS = 4


@pytest.mark.timeout(3600 if LONG else 300)
def test_no_accepted_task_is_lost_and_no_id_used_again(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED") or time.time())
    print(f"SEED={seed}")
    with lab(tmp_path / "lab", seed, nodes=0) as made:
        answered = _submit_through_kills(made, seed)
        stored = {str(task["name"]): int(task["id"]) for task in made.tasks()}
        kills = made.host.kills
    assert kills >= KILLS
    assert sorted(answered) == sorted(f"t{number}" for number in range(SUBMITS))
    assert stored == answered, "each accepted task is there under the id that was told, and no other"
    assert len(set(answered.values())) == SUBMITS
    print(f"{SUBMITS} submits, {kills} kills")


def _submit_through_kills(made: Lab, seed: int) -> dict[str, int]:
    """Ids as they were answered, by name; the host is killed evenly over all submits."""
    answered: dict[str, int] = {}
    numbers = iter(range(SUBMITS))
    over, taking = threading.Event(), threading.Lock()

    def client() -> None:
        while True:
            with taking:
                number = next(numbers, None)
            if number is None:
                return
            body = {"command": ["true"], "cores": 0, "name": f"t{number}"}
            answered[f"t{number}"] = made.submit(number, body, time.monotonic() + 120)

    def killer() -> None:
        source = random.Random(seed)
        for kill in itertools.count(1):
            while len(answered) < SUBMITS * kill // (KILLS + 1):
                if over.wait(0.002):
                    return
            time.sleep(source.uniform(0, 0.02))  # any moment of the next submits
            made.host.kill9()
            made.host.start()
            if kill == KILLS:
                return

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        kills = pool.submit(killer)
        for each in [pool.submit(client) for _ in range(CLIENTS)]:
            each.result()
        over.set()
        kills.result()
    return answered
