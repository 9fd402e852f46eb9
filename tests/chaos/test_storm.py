"""A short storm in every run of the suite; ``make chaos MINUTES=60`` runs longer ones."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import docker
import pytest

from tests.chaos.lab import lab
from tests.chaos.storm import storm
from tests.chaos.work import SYSTEMD
from tests.runner.machines import Machine


def _weather(folder: Path, kinds: tuple[str | None, ...], homes: Mapping[str, Machine] | None = None) -> None:
    seed = int(os.environ.get("SEED") or time.time())
    print(f"SEED={seed}")
    with lab(folder / "lab", seed, homes=homes) as made:
        outcome = storm(made, seconds=20, jobs=150, kinds=kinds)
    print(outcome)
    assert outcome.violations == []


@pytest.mark.timeout(300)
def test_processes_in_a_storm(tmp_path: Path) -> None:
    _weather(tmp_path, (None,))


@pytest.mark.docker
@pytest.mark.timeout(300)
@pytest.mark.skipif(os.geteuid() != 0, reason="signals what lives in a container: needs root")
def test_all_kinds_in_a_storm(tmp_path: Path, engine: docker.DockerClient, busybox: str) -> None:
    with Machine(engine, tmp_path) as machine:
        _weather(tmp_path, (busybox, None, SYSTEMD), {"n1": machine})
