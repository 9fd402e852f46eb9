"""What all tests share: the real Docker engine, and a loud word where there is none."""

from __future__ import annotations

import os

import docker
import pytest
from docker.errors import DockerException
from hypothesis import settings

from tests import images

settings.register_profile("any machine", deadline=None)  # how long an example takes says nothing about it
settings.load_profile("any machine")
_IN_CI = os.environ.get("CI") == "true"
_not_run: list[str] = []


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    """A client of the engine on this machine; ``make test`` starts one where it may."""
    try:
        client = docker.from_env(timeout=60)
        client.ping()
    except DockerException as error:
        if _IN_CI:
            pytest.fail(f"CI must have a Docker engine: {error}")
        pytest.skip("no Docker engine")
    return client


@pytest.fixture(scope="session")
def busybox(engine: docker.DockerClient) -> str:
    """The name of a 2 MB image with a shell."""
    return images.busybox(engine)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _not_run.append(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _not_run:
        terminalreporter.section("NOT RUN", sep="!", red=True, bold=True)
        for name in _not_run:
            terminalreporter.write_line(name, red=True)
        terminalreporter.write_line(
            f"{len(_not_run)} tests were NOT RUN (make test as root brings up what they need)", red=True
        )


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _IN_CI and _not_run and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
