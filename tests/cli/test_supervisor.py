"""The supervisor's parts: what it starts, how it waits, what it writes, what it recognises as its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons import supervisor
from daemons.supervisor import Child, Plan, stop_strays
from hakuriver import endpoint
from hakuriver.cli import local
from hakuriver.cli.up import choose_port
from tests.waiting import until


def _plan(folder: Path, config: Path | None = None) -> Plan:
    return Plan(folder, 8000, 8001, "http://127.0.0.1:8000", "http://127.0.0.1:8001", config)


def test_the_daemons_command_lines(tmp_path: Path) -> None:
    plan = _plan(tmp_path, tmp_path / "c.toml")
    assert plan.argv("host")[1:] == [
        *["-m", "hakuriver", "host", "--embedded", "--state-dir", str(tmp_path), "--port", "8000"],
        *["--config", str(tmp_path / "c.toml")],
    ]
    assert plan.argv("runner")[-6:-2] == ["--port", "8001", "--host", "http://127.0.0.1:8000"]


def test_a_child_that_dies_waits_longer_each_time(tmp_path: Path) -> None:
    child = Child("host", "", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "logs" / "host.log")
    pauses = []
    now = 100.0
    for _ in range(8):
        child.start(now, dict(os.environ))
        assert child.process is not None
        child.process.wait(20)
        assert child.reap(now)
        pauses.append(child.due - now)
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert (child.crashes, child.last_exit, child.process) == (8, 3, None)
    child.start(now, dict(os.environ))
    assert child.process is not None
    child.process.wait(20)
    child.reap(now + supervisor.HEALTHY_AFTER)
    assert child.due - now - supervisor.HEALTHY_AFTER == pytest.approx(0.2), "a minute of health forgives"


def test_what_it_writes_is_what_clients_read(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    plan.layout.root.mkdir(parents=True)
    children = [Child("host", plan.host_url, [], tmp_path), Child("runner", plan.runner_url, [], tmp_path)]
    supervisor.write(plan, children)
    found = endpoint.read_cluster(plan.layout)
    assert found["host"] == {"url": plan.host_url, "pid": None, "crashes": 0, "last_exit": None}
    assert found["supervisor"] == {"pid": os.getpid(), "started": local.start_ticks(os.getpid())}
    assert sorted(path.name for path in plan.layout.root.iterdir()) == ["cluster.json"]


def test_a_supervisor_is_only_one_that_holds_the_lock_and_started_when_it_said(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    plan.layout.root.mkdir(parents=True)
    supervisor.write(plan, [])
    assert local.supervisor_pid(plan.layout) is None
    with supervisor._lock(plan.layout):
        assert local.supervised(plan.layout)
        assert local.supervisor_pid(plan.layout) == os.getpid()
        text = plan.layout.cluster_file.read_text()
        started = local.start_ticks(os.getpid())
        plan.layout.cluster_file.write_text(text.replace(str(started), "1"))
        assert local.supervisor_pid(plan.layout) is None, "another process under the same pid"
    assert not local.supervised(plan.layout)


def test_strays_are_known_by_their_exact_command_line(tmp_path: Path) -> None:
    def sleeper(*words: str) -> subprocess.Popen[bytes]:
        """A process with any command line that sleeps."""
        argv = ["stray", *words]
        return subprocess.Popen(argv, executable="/bin/sh", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    mine, other = str(tmp_path / "mine"), str(tmp_path / "mine2")
    script = tmp_path / "hakuriver"
    script.write_text("sleep 60\n")
    # `sh -m hakuriver host …` reads the file of that name, so the command line is that of a daemon
    processes = []
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for role, folder in (("host", mine), ("runner", mine), ("host", other), ("client", mine)):
            processes.append(
                sleeper("-m", "hakuriver", role, "--embedded", "--state-dir", folder, "--port", "1")
            )
    finally:
        os.chdir(here)
    try:
        for process in processes:
            line = Path(f"/proc/{process.pid}/cmdline")
            until(lambda line=line: b"--embedded" in line.read_bytes(), "it runs")  # type: ignore[misc]
        began = time.monotonic()
        assert stop_strays(tmp_path / "mine") == 2
        assert time.monotonic() - began < supervisor.STOP_WITHIN
        assert [process.poll() is None for process in processes] == [False, False, True, True]
        assert stop_strays(tmp_path / "mine") == 0
    finally:
        for process in processes:
            process.kill()
            process.wait(10)


def test_a_log_over_its_limit_keeps_one_older_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_LIMIT", 100)
    log = tmp_path / "host.log"
    with log.open("ab", buffering=0) as daemon:
        daemon.write(b"x" * 101)
        supervisor._rotate(log)
        daemon.write(b"after\n")
        supervisor._rotate(log)
    assert log.read_bytes() == b"after\n"
    assert (tmp_path / "host.log.1").read_bytes() == b"x" * 101


@given(st.lists(st.none() | st.integers(1, 9)), st.sets(st.integers(1, 9)), st.sets(st.integers(1, 9)))
def test_the_first_free_port_that_nobody_took(
    wanted: list[int | None], taken: set[int], busy: set[int]
) -> None:
    chosen = choose_port(wanted, taken, lambda port: port not in busy, lambda: 1000)
    good = [port for port in wanted if port and port not in taken and port not in busy]
    assert chosen == (good[0] if good else 1000)
