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

from hakuriver.paths import host_path
from tests.chaos.lab import Lab, lab
from tests.chaos.work import intend
from tests.waiting import until

LONG = os.environ.get("CHAOS") == "long"
SUBMITS, KILLS = (10_000, 300) if LONG else (500, 15)
CLIENTS = 4


@pytest.mark.timeout(3600 if LONG else 300)
def test_no_accepted_task_is_lost_and_no_id_used_again(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED") or time.time())
    print(f"SEED={seed}")
    environ = {"HAKURIVER_RETENTION_TASK_COUNT": "0"}  # what has ended is forgotten within a second
    with lab(tmp_path / "lab", seed, nodes=0, environ=environ, hurry=True) as made:
        answered, ended = _submit_through_kills(made, seed)
        stored = {str(task["name"]): int(task["id"]) for task in made.tasks()}
        kills = made.host.kills
        assert kills >= KILLS
        assert sorted(answered) == sorted(f"t{number}" for number in range(SUBMITS))
        assert len(set(answered.values())) == SUBMITS, "pruned or not, no id comes twice"
        assert stored.items() <= answered.items(), "what is there is there under the id that was told"
        forgotten = answered.keys() - stored.keys()
        assert forgotten <= ended, "each accepted task is there unless it had ended"
        assert forgotten, "some were forgotten between the kills"
        _end_all(made)
        until(lambda: not list(made.tasks()), "all are forgotten", seconds=60)
        made.host.kill9()
        made.host.start()
        body = {"command": ["true"], "cores": 0}
        assert made.submit(SUBMITS, body, time.monotonic() + 60) > max(answered.values())
    print(f"{SUBMITS} submits, {kills} kills, {len(forgotten)} tasks pruned meanwhile")


def _end_all(made: Lab) -> None:
    live = {"state": "live", "limit": 1000}
    while ids := [int(task["id"]) for task in made.ask("GET", host_path("tasks"), live)["items"]]:
        made.client.request("POST", host_path("intents"), body={"verb": "kill", "tasks": ids})


def _submit_through_kills(made: Lab, seed: int) -> tuple[dict[str, int], set[str]]:
    """Ids as they were answered, by name, and who of them was ended again (every third); the host is killed
    evenly over all submits."""
    answered: dict[str, int] = {}
    ended: set[str] = set()
    numbers = iter(range(SUBMITS))
    over, taking = threading.Event(), threading.Lock()

    def client() -> None:
        while True:
            with taking:
                number = next(numbers, None)
            if number is None:
                return
            body = {"command": ["true"], "cores": 0, "name": f"t{number}"}
            task = made.submit(number, body, time.monotonic() + 120)
            if number % 3 == 0:
                ended.add(f"t{number}")
                intend(made, task, "kill", time.monotonic() + 120)
            answered[f"t{number}"] = task

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
    return answered, ended
