"""Every command of the README really runs, in order, as a newcomer would type it."""

from __future__ import annotations

import shlex

from tests.docs import ROOT, commands
from tests.e2e.cluster import Cluster


def test_the_readmes_commands(cluster: Cluster) -> None:
    found = commands(ROOT / "README.md")
    assert len(found) > 8
    for command in found:
        result = cluster.cli(*command[1:])
        assert result.code == 0, (shlex.join(command), result)
    assert cluster.log(cluster.ok("task", "list", "--name", "nap")[0]["id"]) == b""
