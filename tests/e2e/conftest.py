from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for the tests of a module, with the two CPUs that every test machine has."""
    found = Cluster(
        tmp_path_factory.mktemp("cluster") / "state", cpus=set(sorted(os.sched_getaffinity(0))[:2])
    )
    found.up()
    yield found
    found.down()


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of one test, for tests that break it."""
    found = Cluster(tmp_path / "state", cpus=set(sorted(os.sched_getaffinity(0))[:2]))
    found.up()
    yield found
    found.down()
