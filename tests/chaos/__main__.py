"""``make chaos MINUTES=60 SEED=7``: storms of about two minutes, one seed after the other."""

from __future__ import annotations

import os
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
    end = time.monotonic() + 60 * float(os.environ.get("MINUTES") or 10)
    bad = 0
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory(prefix="hakuriver-chaos-", ignore_cleanup_errors=True) as folder:
            print(f"seed {seed}", flush=True)
            with lab(Path(folder) / "lab", seed) as made:
                seconds = min(90.0, max(10.0, end - time.monotonic()))
                outcome = storm(made, seconds=seconds, jobs=400, images=kinds)
        print(f"seed {seed}: {outcome}", *outcome.violations, sep="\n  ", flush=True)
        bad += len(outcome.violations)
        seed += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
