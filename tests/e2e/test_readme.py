"""Every command of the README really runs, in order, as a newcomer would type it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import ROOT, commands
from tests.e2e.cluster import Cluster
from tests.fakes import driver
from tests.fakes.driver import FakeDriver

IMAGE = "python:3.12-slim"


@pytest.mark.docker
def test_the_readmes_commands(tmp_path: Path, busybox: str) -> None:
    """On a machine called n1 with a label, two GPUs and an image of its own, as the README's."""
    found = commands(ROOT / "README.md")
    assert len(found) > 8
    gpus = FakeDriver(driver.build(tmp_path / "gpus"), tmp_path / "gpus" / "state")
    gpus.say("count 2")
    node = {"HAKURIVER_NODE_NAME": "n1", "HAKURIVER_NODE_LABELS": "room=b12"}
    cluster = Cluster(tmp_path / "state", environ={**gpus.environ, **node})
    cluster.up()
    try:
        for command in found:
            if command[0] == "hakurun":
                _run_here(command)
                continue
            words = [busybox if word == IMAGE else word for word in command[1:]]
            result = cluster.cli(*words)
            assert result.code == 0, (shlex.join(command), result)
        assert cluster.log(cluster.ok("task", "list", "--name", "nap")[0]["id"]) == b""
    finally:
        cluster.cli("env", "delete", "torch")
        cluster.down()


def _run_here(command: list[str]) -> None:
    words = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (shlex.join(command), done)
