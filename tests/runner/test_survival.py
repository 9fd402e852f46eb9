"""Nothing is lost when anything is killed -9."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daemons.runner.shim.proc import process
from daemons.runner.shim.server import IDLE
from daemons.runner.shim.status import Status, read_status
from hakuriver.errors import Conflict, HakuRiverError, NotFound, UsageError
from tests.runner.peer import Runner, cmdline_pids, eventually


def status(runner: Runner, task: int) -> Status:
    folder = os.open(runner.folder(task), os.O_RDONLY)
    try:
        found = read_status(folder)
    finally:
        os.close(folder)
    assert found is not None
    return found


def parent(pid: int) -> int:
    facts = process(pid)
    assert facts is not None
    return facts[1]


def forkserver(runner: Runner) -> int:
    """The one whose parent isn't of its kind (shims have its command line)."""
    family = cmdline_pids(str(runner.layout.runner))
    facts = {pid: process(pid) for pid in family}  # a shim may end while we look
    (found,) = [pid for pid, seen in facts.items() if seen is not None and seen[1] not in family]
    return found


def test_a_crash_of_the_runner_mid_task_changes_nothing(runner: Runner, tmp_path: Path) -> None:
    data = random.Random(7).randbytes(10_000_000)
    (tmp_path / "data").write_bytes(data)
    gate = tmp_path / "gate"
    script = f"head -c 4000000 {tmp_path}/data; until [ -e {gate} ]; do sleep 0.05; done"
    task = runner.submit("sh", "-c", f"{script}; tail -c +4000001 {tmp_path}/data; exit 7")
    eventually(lambda: runner.logs(task, offset=3_999_999).data)
    pid = status(runner, task)["pid"]
    runner.crash()
    runner.start()
    assert status(runner, task)["pid"] == pid
    assert not runner.logs(task).ended
    gate.touch()
    end = runner.host.end(task)
    assert (end["state"], end["exit_code"]) == ("failed", 7)
    assert hashlib.sha256(runner.whole_log(task)).digest() == hashlib.sha256(data).digest()
    copy = runner.layout.shared / "task_outputs" / f"{task}.out"
    eventually(lambda: copy.exists() and copy.read_bytes() == data, what="the copy")
    assert [r["state"] for r in runner.host.of(task)] == ["running", "failed"]


def test_an_end_while_the_runner_is_down_is_reported_exactly(runner: Runner) -> None:
    task = runner.submit("sh", "-c", "sleep 0.5; exit 42")
    runner.host.state(task, "running")
    runner.crash()
    eventually(lambda: status(runner, task)["phase"] == "final")
    runner.start()
    end = runner.host.end(task)
    assert (end["state"], end["exit_code"]) == ("failed", 42)


def test_a_kill_that_comes_after_the_end_doesnt_change_it(runner: Runner) -> None:
    task = runner.submit("sh", "-c", "sleep 0.5; exit 42")
    runner.host.state(task, "running")
    runner.crash()
    eventually(lambda: status(runner, task)["phase"] == "final")
    runner.start()
    runner.intend(task, "kill")
    assert runner.host.end(task)["state"] == "failed"


def test_a_kill_is_carried_out_by_the_next_runner(runner: Runner) -> None:
    task = runner.submit("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    eventually(lambda: runner.logs(task).data)
    runner.intend(task, "kill", grace=1)
    runner.crash()
    runner.start()
    end = runner.host.end(task)
    assert (end["state"], end["signal"]) == ("killed", signal.SIGKILL)


def test_stopping_the_runner_leaves_tasks_alone(runner: Runner, tmp_path: Path) -> None:
    go = tmp_path / "go"
    task = runner.submit("sh", "-c", 'until test -e "$1"; do sleep 0.1; done; exit 3', "sh", str(go))
    runner.host.state(task, "running")
    assert runner.stop() == 0
    assert runner.host.goodbyes == 1
    assert runner.pids(task)
    runner.start()
    go.touch()
    assert runner.host.end(task)["exit_code"] == 3


def test_a_task_whose_shim_was_killed_is_still_kept(runner: Runner) -> None:
    script = "trap 'exit 9' USR1; (while :; do sleep 1; done) & while :; do echo tick; sleep 0.05; done"
    task = runner.submit("sh", "-c", script)
    eventually(lambda: runner.logs(task).data)
    pid = status(runner, task)["pid"]
    os.kill(parent(pid), signal.SIGKILL)
    eventually(lambda: parent(pid) == forkserver(runner), what="the fork server taking over")
    runner.intend(task, "pause", 1)
    runner.host.state(task, "paused")
    size = runner.logs(task).size
    time.sleep(0.2)  # long enough for four ticks
    assert runner.logs(task).size == size
    runner.intend(task, "run", 2)
    eventually(lambda: runner.logs(task).size > size)
    runner.signal(task, signal.SIGUSR1)
    end = runner.host.end(task)
    assert (end["state"], end["exit_code"]) == ("failed", 9)
    assert runner.pids(task) == []


def test_kill_works_without_the_shim(runner: Runner) -> None:
    task = runner.submit("sh", "-c", "setsid sleep 1000 & sleep 1000")
    eventually(lambda: len(runner.pids(task)) >= 3)
    pid = status(runner, task)["pid"]
    os.kill(parent(pid), signal.SIGKILL)
    end = runner.kill(task)
    assert (end["state"], end["signal"]) == ("killed", signal.SIGTERM)
    assert runner.pids(task) == []


def test_shims_live_on_without_the_fork_server(runner: Runner) -> None:
    task = runner.submit("sh", "-c", "sleep 1; exit 4")
    runner.host.state(task, "running")
    os.kill(forkserver(runner), signal.SIGKILL)
    assert runner.run("true")["state"] == "completed"
    assert runner.host.end(task)["exit_code"] == 4


def test_only_when_nobody_could_see_the_end_it_is_lost(runner: Runner) -> None:
    task = runner.submit("sleep", "2")
    doomed = runner.submit("sleep", "1000")
    for each in (task, doomed):
        runner.host.state(each, "running")
    os.kill(forkserver(runner), signal.SIGKILL)
    for each in (task, doomed):
        os.kill(parent(status(runner, each)["pid"]), signal.SIGKILL)
    assert runner.kill(doomed)["state"] in ("killed", "lost")
    assert runner.pids(doomed) == []
    end = runner.host.end(task)
    assert (end["state"], end["exit_code"]) == ("lost", None)


def test_everything_killed_at_once_loses_no_end(runner: Runner) -> None:
    tasks = [runner.submit("sh", "-c", f"sleep 0.{number}; exit {number}") for number in range(1, 8)]
    runner.host.state(tasks[-1], "running")
    runner.crash()
    runner.start()
    for number, task in enumerate(tasks, 1):
        assert runner.host.end(task)["exit_code"] == number


def test_crashes_during_the_start_never_start_twice(runner: Runner, tmp_path: Path) -> None:
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.04):
        task = runner.submit("sh", "-c", f"echo x >>{tmp_path}/runs-$HAKURIVER_TASK_ID")
        time.sleep(delay)
        runner.crash()
        runner.start()
        assert runner.host.end(task)["state"] == "completed"
        assert (tmp_path / f"runs-{task}").read_text() == "x\n"


def test_another_boot_means_lost(runner: Runner) -> None:
    task = runner.submit("sleep", "1000")
    runner.host.state(task, "running")
    ended = runner.run("sh", "-c", "exit 5")["task"]
    assert status(runner, ended)["phase"] == "final"
    runner.crash()
    journal_says_other_boot(runner)
    for pid in (parent(status(runner, task)["pid"]), forkserver(runner), status(runner, task)["pid"]):
        os.kill(pid, signal.SIGKILL)
    runner.start()
    end = runner.host.end(task)
    assert end["state"] == "lost"
    assert end["reason"].startswith("node_rebooted")


def journal_says_other_boot(runner: Runner) -> None:
    script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]);"
    script += "db.execute(\"UPDATE attempt SET boot_id = 'earlier'\"); db.commit()"
    subprocess.run([sys.executable, "-c", script, str(runner.layout.journal)], check=True)


def test_orders_are_idempotent(runner: Runner) -> None:
    spec = runner.spec("sh", "-c", "echo once")
    first, second = runner.put(spec), runner.put(spec)
    assert (first["accepted"], second["accepted"]) == (True, False)
    assert second["journal_version"] >= first["journal_version"] > 0
    runner.host.end(spec.task)
    assert runner.put(spec)["accepted"] is False
    assert runner.whole_log(spec.task) == b"once\n"
    other = spec.model_copy(update={"command": ["echo", "twice"]})
    with pytest.raises(Conflict, match="another content"):
        runner.put(other)
    with pytest.raises(UsageError, match="digest"):
        runner.put(runner.spec("true"), digest="0" * 64)
    with pytest.raises(Conflict, match="cluster"):
        runner.put(runner.spec("true"), cluster="somebody else")
    with pytest.raises(Conflict, match="earlier"):
        runner.put(runner.spec("true"), epoch=0)


def test_an_intent_before_its_order_is_a_tombstone(runner: Runner, tmp_path: Path) -> None:
    spec = runner.spec("touch", str(tmp_path / "ran"))
    runner.intend(spec.task, "kill", 3)
    runner.crash()
    runner.start()
    assert runner.put(spec)["accepted"] is True
    end = runner.host.end(spec.task)
    assert (end["state"], end["intent_version"]) == ("killed", 3)
    assert not (tmp_path / "ran").exists()


def test_an_order_that_brings_its_kill_never_starts(runner: Runner, tmp_path: Path) -> None:
    spec = runner.spec("touch", str(tmp_path / "ran"))
    runner.put(spec, intent={"version": 2, "intent": "kill", "by": "bob", "grace": 1})
    assert runner.host.end(spec.task)["state"] == "killed"
    assert not (tmp_path / "ran").exists()


def test_reports_survive_lost_answers_and_a_host_that_is_down(runner: Runner) -> None:
    host = runner.host
    host.lose_answers = 2
    assert runner.run("true")["state"] == "completed"
    host.wait(lambda: not host.lose_answers and host.deliveries > 2, what="sending again")
    count = len(host.heartbeats)
    host.wait(
        lambda: any(not each["attempts"] for each in host.heartbeats[count:]), what="the acknowledgement"
    )
    host.down = True
    task = runner.submit("sh", "-c", "exit 2")
    eventually(lambda: runner.logs(task, wait=5).ended)
    runner.crash()
    runner.launch()
    host.down = False
    assert host.end(task)["exit_code"] == 2
    assert [r["sequence"] for r in host.of(task)] == [1, 2]


def test_heartbeats_name_every_attempt_without_acknowledged_end(runner: Runner) -> None:
    host = runner.host
    spec = runner.spec("sleep", "1000")
    version = runner.put(spec)["journal_version"]
    beat = host.wait(lambda: next((b for b in host.heartbeats if b["journal_version"] >= version), None))
    assert [spec.task, 1] in beat["attempts"]
    assert beat["usage"]["memory_used"] > 0
    runner.kill(spec.task)
    host.wait(lambda: host.heartbeats[-1]["attempts"] == [], what="an empty heartbeat")


def test_a_state_folder_has_one_runner(runner: Runner) -> None:
    second = Runner(runner.state, runner.host)
    second.launch()
    assert second.process is not None
    assert second.process.wait(10) == 6
    assert "a runner uses" in runner.log
    assert runner.run("true")["state"] == "completed"


def test_a_journal_of_a_later_version_is_refused(runner: Runner) -> None:
    runner.stop()
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version = 999')"
    subprocess.run([sys.executable, "-c", script, str(runner.layout.journal)], check=True)
    runner.launch()
    assert runner.process is not None
    assert runner.process.wait(10) == 2
    assert "later version" in runner.log


def test_another_cluster_is_refused_in_clear_words(runner: Runner) -> None:
    runner.run("true")
    runner.stop()
    runner.host.cluster = "another cluster"
    runner.launch()
    eventually(lambda: "belongs to cluster" in runner.log)


def test_the_fork_server_ends_when_nothing_needs_it(runner: Runner) -> None:
    assert runner.run("true")["state"] == "completed"
    pid = forkserver(runner)
    runner.stop()
    eventually(lambda: process(pid) is None, timeout=IDLE + 5, what="its end")
    assert not list(runner.layout.runner.glob("*.sock"))
    runner.start()
    assert runner.run("true")["state"] == "completed"


def test_deep_state_folders_work(tmp_path: Path, runner: Runner) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    other = Runner(deep, runner.host, flags={"node.name": "n2"}).start()
    try:
        assert other.run("true", task=77)["state"] == "completed"
    finally:
        other.close()


def test_logs_of_unknown_attempts_are_not_found(runner: Runner) -> None:
    for call in (lambda: runner.logs(999), lambda: runner.signal(999, 15), lambda: runner.stdin(999, b"x")):
        with pytest.raises(NotFound):
            call()
    task = runner.submit("true")
    runner.host.end(task)
    with pytest.raises(NotFound):
        runner.logs(task, "nonsense")
    wrong: list[dict[str, Any]] = [
        {"offset": "-1"},
        {"limit": "0"},
        {"tail": "x"},
        {"wait": "nan"},
        {"offset": "9" * 40},
    ]
    for query in wrong:
        with pytest.raises(UsageError):
            runner.logs(task, **query)


def test_every_route_needs_the_hosts_credential(runner: Runner) -> None:
    import http.client
    from urllib.parse import urlsplit

    where = urlsplit(runner.host.registrations[-1]["address"]).netloc
    node = runner.layout.node_token.read_text().strip()
    paths = ["/", "/runner", "/runner/attempts/1/1", "/runner/attempts/1/1/intent"]
    paths += [f"/runner/attempts/1/1/{each}" for each in ("signal", "stdin", "logs/stdout")]
    for path in paths:
        for method in ("GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH"):
            for headers in ({}, {"Authorization": f"Bearer {node}"}, {"Authorization": "Basic x"}):
                connection = http.client.HTTPConnection(where, timeout=5)
                connection.request(method, path, headers=headers)
                response = connection.getresponse()
                assert response.status == 401, (method, path, headers)
                body = response.read()
                assert method == "HEAD" or json.loads(body)["error"]["code"] == "unauthenticated"
                connection.close()


def test_bad_bodies_are_one_clear_line(runner: Runner) -> None:
    for path in ("/runner/attempts/1/1", "/runner/attempts/1/1/intent"):
        for body in (b"", b"{", b"[]", b'{"x": 1}', b"\xff"):
            with pytest.raises(HakuRiverError) as caught:
                runner.client.request("PUT", path, body=body)
            assert caught.value.http_status == 400
    with pytest.raises(UsageError):
        runner.client.request("PUT", "/runner/attempts/0/1/intent", body={"version": 1, "intent": "kill"})
