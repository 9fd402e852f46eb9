"""Wall clocks that jump by a day, forth and back: nothing changes its state, and no age is absurd."""

from __future__ import annotations

import glob
import os
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from hakuriver.paths import host_path
from tests.chaos.history import Job
from tests.chaos.lab import Lab, lab
from tests.chaos.work import node_state, reaches, settled, submit, task_of
from tests.waiting import until

DAY = 86_400
LIBRARIES = sorted(glob.glob("/usr/lib/*/faketime/libfaketime.so.1"))


@pytest.fixture
def clock(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A file that moves the wall clock, and only that, of those who have this environment."""
    if not LIBRARIES:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have libfaketime")
        pytest.skip("no libfaketime")
    file = tmp_path / "clock"
    file.write_text("+0\n")
    environ = {
        "LD_PRELOAD": LIBRARIES[0],
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "HAKURIVER_TIMING_HEARTBEAT_TIMEOUT_FACTOR": "60",  # 18 s: less than a day, more than a slow machine
    }
    return file, environ


def test_a_day_forth_and_back(tmp_path: Path, clock: tuple[Path, dict[str, str]]) -> None:
    file, environ = clock
    with lab(tmp_path / "lab", seed=7, nodes=1, environ=environ) as made:
        jobs: dict[int, Job] = {}
        for number, (jump, offset) in enumerate((("+1d", DAY), ("-1d", -DAY), ("+0", 0))):
            across, inside = Job(2 * number, 3.0, 10, "exit 7"), Job(2 * number + 1, 0.1, 5, "exit 0")
            jobs |= {each.nonce: each for each in (across, inside)}
            running = submit(made, across)
            reaches(made, running, "running")
            file.write_text(f"{jump}\n")
            jumped = time.monotonic()
            until(partial(_in_another_day, made, offset), "the daemons live in another day")
            reaches(made, submit(made, inside), "completed")
            while time.monotonic() < jumped + 1:
                assert node_state(made) == "online"
                assert task_of(made, running)["state"] in ("running", "failed")
                time.sleep(0.1)
            reaches(made, running, "failed")
        assert settled(made, jobs) == []
        ages = [_seconds(task) for task in made.tasks()]
        assert all(0 <= age < 60 for age in ages), ages


def _in_another_day(made: Lab, offset: int) -> bool:
    seen = datetime.fromisoformat(made.ask("GET", host_path("node", name="n0"))["seen_at"])
    return abs((seen - datetime.now(UTC)).total_seconds() - offset) < 60


def _seconds(task: dict[str, str]) -> float:
    started, ended = (datetime.fromisoformat(task[key]) for key in ("started_at", "ended_at"))
    return (ended - started).total_seconds()
