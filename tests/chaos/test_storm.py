"""A short storm in every run of the suite; ``make chaos MINUTES=60`` runs longer ones."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.chaos.lab import lab
from tests.chaos.storm import storm


def _weather(folder: Path, images: tuple[str | None, ...]) -> None:
    seed = int(os.environ.get("SEED") or time.time())
    print(f"SEED={seed}")
    with lab(folder / "lab", seed) as made:
        outcome = storm(made, seconds=20, jobs=150, images=images)
    print(outcome)
    assert outcome.violations == []


@pytest.mark.timeout(300)
def test_processes_in_a_storm(tmp_path: Path) -> None:
    _weather(tmp_path, (None,))


@pytest.mark.docker
@pytest.mark.timeout(300)
def test_containers_in_a_storm(tmp_path: Path, busybox: str) -> None:
    _weather(tmp_path, (busybox, None))
