from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One real cluster for all tests of the command line that don't break it."""
    found = Cluster(tmp_path_factory.mktemp("cli") / "state", cpus=set(sorted(os.sched_getaffinity(0))[:2]))
    found.up()
    yield found
    found.down()


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of one test."""
    found = Cluster(tmp_path / "state", cpus=set(sorted(os.sched_getaffinity(0))[:2]))
    found.up()
    yield found
    found.down()
