from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.runner.machines import Machine
from tests.runner.peer import Host, Runner


@pytest.fixture(scope="module")
def shared_runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """One runner for the tests of a module that don't break it."""
    yield from _runner(tmp_path_factory.mktemp("runner"))


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """A runner of one test."""
    yield from _runner(tmp_path)


@pytest.fixture(scope="module")
def machine(engine: docker.DockerClient) -> Iterator[Machine]:
    """A machine whose process 1 is systemd, for the tests of a module."""
    with Machine(engine) as found:
        yield found


def _runner(folder: Path) -> Iterator[Runner]:
    host = Host()
    found = Runner(folder / "state", host).start()
    try:
        yield found
    finally:
        found.close()
        host.close()
