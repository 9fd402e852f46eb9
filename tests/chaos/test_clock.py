"""Wall clocks that jump by a day, forth and back: no state changes, nothing is forgotten, no age is odd."""

from __future__ import annotations

import glob
import os
import subprocess
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from daemons.runner.forkserver import command
from hakuriver.paths import host_path
from tests.chaos.history import Job
from tests.chaos.lab import Lab, lab
from tests.chaos.work import SYSTEMD, node_state, reaches, settled, submit, task_of
from tests.runner.machines import Machine
from tests.waiting import until

DAY = 86_400
UNITS = pytest.param(
    SYSTEMD,
    marks=[
        pytest.mark.docker,
        pytest.mark.skipif(os.geteuid() != 0, reason="signals what lives in a container: needs root"),
    ],
)
SETTINGS = {
    "HAKURIVER_TIMING_HEARTBEAT_TIMEOUT_FACTOR": "60",  # 18 s: less than a day, more than a slow machine
    # what ended half a day ago is forgotten, by a clock that is believed
    "HAKURIVER_RETENTION_TASK_DAYS": "0.5",
    "HAKURIVER_RETENTION_ATTEMPT_DAYS": "0.5",
}
CACHED = 1.5
"""Seconds after which nobody goes by an older clock: FAKETIME_CACHE_DURATION, which forks inherit."""
LIBRARIES = sorted(glob.glob("/usr/lib/*/faketime/libfaketime.so.1"))


def _moved_by(file: Path) -> dict[str, str]:
    """The environment of those whose wall clock, and only that, this file moves."""
    if not LIBRARIES:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have libfaketime")
        pytest.skip("no libfaketime")
    file.write_text("+0\n")
    return {
        "LD_PRELOAD": LIBRARIES[0],
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",  # a look at the file at every call costs as much as all else
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _start_keepers(made: Lab, environ: dict[str, str]) -> None:
    """Start the runner's fork server with an environment that the runner wouldn't give it; its shims have it
    from there."""
    folder = made.layout("n0").runner
    kept = {"PATH": os.defpath, "LANG": "C.UTF-8"} | environ
    subprocess.run(command(folder), env=kept, stdin=subprocess.DEVNULL, check=True)


@pytest.mark.parametrize("kind", [None, UNITS])
def test_a_day_forth_and_back(tmp_path: Path, request: pytest.FixtureRequest, kind: str | None) -> None:
    clock = tmp_path / "clock"
    environ = _moved_by(clock)
    with ExitStack() as stack:
        homes = {}
        if kind == SYSTEMD:
            machine = stack.enter_context(Machine(request.getfixturevalue("engine"), tmp_path))
            # whatever systemd starts from now on lives by that clock
            pairs = (f"{name}={value}" for name, value in environ.items())
            machine.run("systemctl", "set-environment", *pairs)
            homes = {"n0": machine}
        settings = environ | SETTINGS
        made = stack.enter_context(
            lab(tmp_path / "lab", seed=7, nodes=1, environ=settings, hurry=True, homes=homes)
        )
        if kind is None:
            _start_keepers(made, environ)
        _live_through_days(made, clock, kind)


def _later_than(moment: float) -> bool:
    return time.monotonic() > moment


def _live_through_days(made: Lab, file: Path, kind: str | None) -> None:
    jobs: dict[int, Job] = {}
    for number, (jump, offset) in enumerate((("+1d", DAY), ("+0", 0), ("-1d", -DAY))):
        across, inside = Job(2 * number, 3.0, 10, "exit 7"), Job(2 * number + 1, 0.1, 5, "exit 0")
        jobs |= {each.nonce: each for each in (across, inside)}
        running = submit(made, across, kind)
        reaches(made, running, "running")
        file.write_text(f"{jump}\n")
        jumped = time.monotonic()
        until(partial(_in_another_day, made, offset), "the daemons live in another day")
        until(partial(_later_than, jumped + CACHED), "everybody has looked at the clock")
        ended = reaches(made, submit(made, inside, kind), "completed")["ended_at"]
        assert abs(_ahead(ended) - offset) < 60, "so do those who keep tasks"
        while time.monotonic() < jumped + 1:
            assert node_state(made) == "online"
            assert task_of(made, running)["state"] in ("running", "failed")
            time.sleep(0.1)
        reaches(made, running, "failed")
    assert settled(made, jobs) == [], "nothing was forgotten"
    for task in made.tasks():
        assert made.attempt_folder("n0", task["id"]).exists()
    ages = [_seconds(task) for task in made.tasks()]
    assert all(0 <= age < 60 for age in ages), ages
    for daemon in made.daemons:
        assert "paus" in daemon.log.read_text(), "it saw the jump"


def _in_another_day(made: Lab, offset: int) -> bool:
    return abs(_ahead(made.ask("GET", host_path("node", name="n0"))["seen_at"]) - offset) < 60


def _ahead(told: str) -> float:
    """How many seconds a time that was told just now is ahead."""
    return (datetime.fromisoformat(told) - datetime.now(UTC)).total_seconds()


def _seconds(task: dict[str, str]) -> float:
    started, ended = (datetime.fromisoformat(task[key]) for key in ("started_at", "ended_at"))
    return (ended - started).total_seconds()
