"""A backup put back while the work went on: what ran since is found again, and nothing runs twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster
from tests.waiting import until

_QUICK = {"HAKURIVER_TIMING_HEARTBEAT_INTERVAL": "0.3"}
_SCRIPT = 'echo "$2 $$" >> "$1/starts"; while [ ! -e "$1/$2" ]; do sleep 0.05; done; exit 7'


@pytest.fixture
def quick_cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path / "state", _QUICK, cpus=set(sorted(os.sched_getaffinity(0))[:2]))
    found.up()
    yield found
    found.down()


def test_what_has_run_since_the_backup_does_not_run_again(quick_cluster: Cluster, tmp_path: Path) -> None:
    cluster, file = quick_cluster, tmp_path / "backup"

    def submit(name: str, cores: int = 1) -> int:
        return cluster.submit("sh", "-c", _SCRIPT, "sh", str(tmp_path), name, flags=["--cores", str(cores)])

    def starts() -> dict[str, int]:
        lines = (tmp_path / "starts").read_text().splitlines()
        assert len({line.split()[0] for line in lines}) == len(lines), "something ran twice"
        return {name: int(pid) for name, pid in (line.split() for line in lines)}

    first, ended, runs = submit("first", cores=2), submit("ended"), submit("runs")
    cluster.running(first)
    assert cluster.cli("host", "--backup", str(file)).code == 0
    for name in ("first", "ended"):
        (tmp_path / name).touch()
    cluster.wait(ended)
    cluster.running(runs)
    unknown = submit("unknown")
    cluster.running(unknown)
    before = starts()
    cluster.down(kill=False)
    assert cluster.cli("host", "--restore", str(file)).code == 0
    cluster.up()
    for each in cluster.wait(first, ended):
        assert (each["state"], each["exit_code"], each["attempt"]) == ("failed", 7, 1)
    assert cluster.running(runs)["started_at"] is not None
    assert cluster.cli("task", "show", str(unknown)).code == 3
    until(lambda: not Path(f"/proc/{before['unknown']}").exists(), "the unknown task is ended", seconds=30)
    assert starts() == before
    new = submit("new")
    assert new > unknown
    for name in ("runs", "new"):
        (tmp_path / name).touch()
    for each in cluster.wait(runs, new):
        assert (each["state"], each["exit_code"], each["attempt"]) == ("failed", 7, 1)
    assert sorted(starts()) == ["ended", "first", "new", "runs", "unknown"]
