"""``make chaos MINUTES=60 SEED=7``: half of the time storms of about 90 seconds, seed after seed, then
one storm that kills nobody, to see whether daemons grow; from 30 minutes on the long forms of the other
proofs follow (300 kills of the host in 10,000 submits, and so on). What fails leaves its folder behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import docker
from docker.errors import DockerException

from tests import images
from tests.chaos.lab import lab
from tests.chaos.storm import Outcome, storm
from tests.chaos.work import SYSTEMD
from tests.runner.machines import Machine

MOST_GROWTH = 5.0  # percent
LONG = 600.0
"""Seconds from which on growth is no warming up any more."""


def _engine() -> docker.DockerClient | None:
    """For every third job a container, and, with root, for another one a machine with systemd."""
    try:
        engine = docker.from_env(timeout=60)
        engine.ping()
    except DockerException as error:
        print(f"*** processes only: {error}", file=sys.stderr)
        return None
    return engine


def _run(seed: int, seconds: float, *, kills: bool) -> Outcome:
    """One storm in a lab of its own; about four jobs a second."""
    folder = Path(tempfile.mkdtemp(prefix="hakuriver-chaos-"))
    print(f"seed {seed} in {folder}, {seconds:.0f} s", flush=True)
    engine = _engine()
    with ExitStack() as stack:
        kinds: tuple[str | None, ...] = (None,)
        homes = {}
        if engine is not None:
            kinds = (None, None, images.busybox(engine))
        if engine is not None and os.geteuid() == 0:
            kinds = (None, SYSTEMD, images.busybox(engine))
            homes = {"n1": stack.enter_context(Machine(engine, folder))}
        made = stack.enter_context(lab(folder / "lab", seed, homes=homes))
        outcome = storm(made, seconds=seconds, jobs=int(seconds * 4.4), kinds=kinds, kills=kills)
    if seconds >= LONG:
        grown = {name: each for name, each in outcome.memory.items() if each.percent >= MOST_GROWTH}
        outcome.violations += [f"{name} grew: {each}" for name, each in grown.items()]
    print(f"seed {seed}: {outcome}", *outcome.violations, sep="\n  ", flush=True)
    if not outcome.violations:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def main() -> int:
    seed = int(os.environ.get("SEED") or time.time())
    minutes = float(os.environ.get("MINUTES") or 10)
    end = time.monotonic() + 60 * minutes
    quiet = 30 * minutes if minutes >= 4 else 0.0
    outcomes = []
    while (left := end - quiet - time.monotonic()) > 0:
        outcomes.append(_run(seed, min(90.0, max(10.0, left)), kills=True))
        seed += 1
    if quiet:
        outcomes.append(_run(seed, max(60.0, end - time.monotonic()), kills=False))
    faults: Counter[str] = sum((each.faults for each in outcomes), Counter())
    bad = [line for each in outcomes for line in each.violations]
    print(f"all: {Outcome(sum(each.jobs for each in outcomes), faults, bad)}", flush=True)
    failed = 0
    if minutes >= 30:
        words = [sys.executable, "-m", "pytest", "-q", "-s", str(Path(__file__).parent)]
        failed = subprocess.run(words, env=os.environ | {"CHAOS": "long"}, check=False).returncode
    return 1 if bad or failed else 0


if __name__ == "__main__":
    sys.exit(main())
