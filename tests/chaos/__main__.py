"""``make chaos MINUTES=60 SEED=7``: storms of about two minutes, one seed after the other.

Every third seed kills nobody, to see whether daemons grow. From 30 minutes on the long forms of the other
proofs follow (300 kills of the host in 10,000 submits, and so on). What fails leaves its folder behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import docker
from docker.errors import DockerException

from tests import images
from tests.chaos.lab import lab
from tests.chaos.storm import storm


def _busybox() -> str | None:
    """A container for every third job, where there is an engine."""
    try:
        return images.busybox(docker.from_env(timeout=60))
    except DockerException as error:
        print(f"*** processes only: {error}", file=sys.stderr)
        return None


def main() -> int:
    kinds = (None, None, _busybox())
    seed = int(os.environ.get("SEED") or time.time())
    minutes = float(os.environ.get("MINUTES") or 10)
    end = time.monotonic() + 60 * minutes
    bad = 0
    while time.monotonic() < end:
        folder = Path(tempfile.mkdtemp(prefix="hakuriver-chaos-"))
        print(f"seed {seed} in {folder}", flush=True)
        with lab(folder / "lab", seed) as made:
            seconds = min(90.0, max(10.0, end - time.monotonic()))
            outcome = storm(made, seconds=seconds, jobs=400, images=kinds, kills=seed % 3 > 0)
        print(f"seed {seed}: {outcome}", *outcome.violations, sep="\n  ", flush=True)
        bad += len(outcome.violations)
        if not outcome.violations:
            shutil.rmtree(folder, ignore_errors=True)
        seed += 1
    if minutes >= 30:
        words = [sys.executable, "-m", "pytest", "-q", "-s", str(Path(__file__).parent)]
        bad += subprocess.run(words, env=os.environ | {"CHAOS": "long"}, check=False).returncode
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
