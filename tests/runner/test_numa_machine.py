"""That binding binds: a real runner in a guest with two NUMA nodes and control groups of version 2."""

from __future__ import annotations

import os

import pytest

from tests.machines import guest

pytestmark = pytest.mark.slow
PAGES = (48 << 20) // 4096


@pytest.mark.timeout(400)
def test_tasks_run_and_keep_their_memory_where_they_were_sent() -> None:
    if (reason := guest.missing()) is not None:
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    found, _ = guest.run("tests.machines.numa", nodes=2, timeout=360)
    nodes = [(each["id"], each["cpus"]) for each in found["facts"]["numa"]]
    assert nodes == [(0, [0, 1]), (1, [2, 3])]
    assert found["facts"]["numa"][0]["distances"] == [10, 20]
    assert found["free"]["policies"] == ["default"]
    assert found["free"]["cpus"] == [0, 1, 2, 3] or "2" not in found["numactl"], (
        "it makes room for the pinned"
    )
    for (node, cpus), bound in zip(nodes, found["bound"], strict=True):
        assert bound["policies"] == [f"bind:{node}"]
        assert set(bound["cpus"]) <= set(cpus)
        elsewhere = sum(count for other, count in bound["pages"].items() if other != str(node))
        assert bound["pages"][str(node)] >= PAGES
        assert elsewhere < PAGES // 100, "but for what it shares with who started it"
    # another opinion, of a task that has one of the CPUs to itself
    lines = dict(line.split(":", 1) for line in found["numactl"].splitlines() if ":" in line)
    assert (lines["policy"].strip(), lines["membind"].strip()) == ("bind", "1")
    assert lines["physcpubind"].strip() in ("2", "3")
    # limits of version 2
    assert "memory_limits=cgroup cpu_limits=cgroup" in found["log"]
    assert found["share"] < 0.6
    assert (found["over"]["state"], found["over"]["signal"]) == ("killed_oom", 9)
