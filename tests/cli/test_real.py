"""The command line against a real cluster: shapes of JSON, ids, following, Ctrl-C, terminals."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.cluster import HAKURIVER, Cluster
from tests.waiting import until

TASK = {
    *("id", "batch", "kind", "name", "tags", "owner", "state", "reason", "command", "target", "node", "numa"),
    *("gpus", "gpu_uuids", "cores", "memory", "executor", "container", "image", "attempt", "exit_code"),
    *("signal", "error", "created_at", "started_at", "ended_at"),
}
NODE = {
    *("name", "state", "address", "cores", "cores_free", "memory", "memory_free", "numa", "gpus"),
    *("executors", "labels", "drained", "usage", "tasks"),
}


def test_json_keys_of_tasks(cluster: Cluster) -> None:
    (submitted,) = cluster.ok("task", "submit", "--", "true")
    shown = cluster.ok("task", "show", str(submitted["id"]))
    several = cluster.ok("task", "show", f"{submitted['id']},{submitted['id']}")
    listed = cluster.ok("task", "list", "-n", "1")
    assert isinstance(shown, dict)
    assert [isinstance(each, list) for each in (several, listed)] == [True, True]
    for task in (submitted, shown, several[0], listed[0]):
        assert set(task) >= TASK
    assert shown["attempts"][0]["attempt"] == 1


def test_a_task_whose_node_is_there_is_not_moved(cluster: Cluster) -> None:
    (made,) = cluster.ok("task", "submit", "--on-node-loss", "requeue", "--", "sleep", "100")
    assert made["on_node_loss"] == "requeue"
    cluster.running(made["id"])
    refused = cluster.cli("task", "requeue", "--force", str(made["id"]))
    assert refused.code == 6
    assert "is online, so task" in refused.err
    cluster.ok("task", "kill", str(made["id"]))
    (ended,) = cluster.wait(made["id"])
    assert ended["attempt"] == 1


def test_json_keys_of_nodes_and_status(cluster: Cluster) -> None:
    (node,) = cluster.ok("nodes")
    assert set(node) >= NODE
    assert cluster.ok("node", "show", node["name"])["name"] == node["name"]
    status = cluster.ok("status")
    assert set(status) >= {"cluster", "version", "subject", "host", "runner", "supervisor", "nodes", "tasks"}
    for part in ("host", "runner"):
        assert status[part]["url"].startswith("http://127.0.0.1:")
        os.kill(status[part]["pid"], 0)
    assert status["nodes"] == {"online": 1}


def test_a_lost_note_of_where_the_daemons_are_is_written_again(own_cluster: Cluster) -> None:
    own_cluster.layout.cluster_file.unlink()
    until(own_cluster.online, "the supervisor noticed", seconds=15)


def test_up_again_finds_it_running(cluster: Cluster) -> None:
    before = cluster.daemons()
    found = cluster.ok("up", "--headless")
    assert found["started"] is False
    assert found["host"]["pid"] == before["host"]["pid"]
    refused = cluster.cli("up", "--headless", "--port", "1")
    assert refused.code == 6
    assert "runs already" in refused.err


def test_ids_in_all_their_forms(cluster: Cluster) -> None:
    first = cluster.submit("sleep", "60", flags=["--cores", "0", "--name", "ids-here"])
    second = cluster.submit("true", flags=["--cores", "0"])
    assert cluster.ok("task", "show", "@last")["id"] == second
    assert cluster.ok("task", "show", "ids-here")["id"] == first
    assert [task["id"] for task in cluster.ok("task", "show", f"{first}-{second}")] == [first, second]
    partly = cluster.cli("--json", "task", "kill", f"{first},999999")
    assert partly.code == 1
    assert [task["id"] for task in partly.json] == [first]
    assert json.loads(partly.err)["error"]["code"] == "not_found"
    assert cluster.cli("task", "kill", "999998-999999").code == 3
    cluster.wait(first)
    gone = cluster.cli("task", "kill", "ids-here")
    assert gone.code == 3
    assert f"the last one of that name was {first}" in gone.err


def test_quiet_prints_ids_only(cluster: Cluster) -> None:
    task = cluster.submit("true", flags=["--tag", "quiet"])
    assert cluster.cli("-q", "task", "list", "--tag", "quiet").out == f"{task}\n".encode()
    (node,) = cluster.ok("nodes")
    assert cluster.cli("nodes", "-q").out.decode().split() == [node["name"]]


def test_list_filters_and_pages(cluster: Cluster) -> None:
    tasks = [cluster.submit("true", flags=["--cores", "0", "--tag", "page"]) for _ in range(5)]
    assert [task["id"] for task in cluster.ok("task", "list", "--tag", "page", "-n", "2")] == tasks[:2:-1]
    assert len(cluster.ok("task", "list", "--tag", "page", "--all")) == 5
    cluster.wait(*tasks)
    ended = cluster.ok("task", "list", "--tag", "page", "--state", "completed,failed", "--owner", "@me")
    assert len(ended) == 5
    assert cluster.ok("task", "list", "--tag", "page", "--state", "live") == []


def test_wait_returns_the_first_failing_code_and_times_out_in_time(cluster: Cluster) -> None:
    tasks = [cluster.submit("sh", "-c", f"exit {code}", flags=["--cores", "0"]) for code in (0, 9, 4)]
    assert cluster.cli("task", "wait", ",".join(map(str, tasks))).code == 9
    assert cluster.cli("task", "wait", str(tasks[0])).code == 0
    assert cluster.cli("task", "wait", "999999").code == 3
    sleeper = cluster.submit("sleep", "60", flags=["--cores", "0"])
    began = time.monotonic()
    late = cluster.cli("task", "wait", str(sleeper), "--timeout", "0.5s")
    assert late.code == 124
    assert 0.5 <= time.monotonic() - began < 30  # not the task's minute
    assert str(sleeper) in late.err
    cluster.ok("task", "kill", str(sleeper))
    assert cluster.cli("task", "wait", str(sleeper)).code == 128 + 15


def test_logs_of_raw_bytes_and_their_ends(cluster: Cluster) -> None:
    task = cluster.submit("printf", r"\000\033[31m\377 one\ntwo\nthree", flags=["--cores", "0"])
    cluster.wait(task)
    assert cluster.log(task) == b"\0\x1b[31m\xff one\ntwo\nthree"
    assert cluster.log(task, "-n", "2") == b"two\nthree"
    assert cluster.log(task, "--stderr") == b""
    assert cluster.cli("task", "logs", str(task), "-f", "--exit-status").code == 0


def test_following_as_json_while_the_host_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo é1; while [ ! -e '{gate}' ]; do sleep 0.05; done; echo é2; exit 5"
    task = cluster.submit("sh", "-c", script, flags=["--cores", "0"])
    cluster.running(task)
    follower = cluster.start("--json", "task", "logs", "-f", "--exit-status", str(task))
    waiter = cluster.start("task", "wait", str(task))
    assert follower.stdout is not None
    first = json.loads(follower.stdout.readline())
    assert first == {"stream": "stdout", "offset": 0, "data": "é1\n"}
    cluster.kill9("host")
    gate.touch()
    rest, _ = follower.communicate(timeout=40)
    assert [json.loads(line) for line in rest.splitlines()] == [
        {"stream": "stdout", "offset": 4, "data": "é2\n"}
    ]
    assert follower.returncode == 5
    assert waiter.wait(40) == 5


def test_watch_is_one_object_a_line(cluster: Cluster) -> None:
    watching = cluster.start("--json", "watch")
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["type"] == "snapshot"
    task = cluster.submit("true")
    for line in iter(watching.stdout.readline, b""):
        change = json.loads(line)
        if (
            change["type"] == "task"
            and change["task"]["id"] == task
            and change["task"]["state"] == "completed"
        ):
            break
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=10)
    assert watching.returncode == 130
    assert err == b""


def test_run_says_what_it_waits_for(cluster: Cluster) -> None:
    blocker = cluster.submit("sleep", "60", flags=["--cores", "2"])
    cluster.running(blocker)
    runner = cluster.start("run", "--", "echo", "done")
    assert runner.stderr is not None
    said = runner.stderr.readline().decode()
    assert "waits" in said
    assert "core" in said
    cluster.ok("task", "kill", str(blocker))
    out, _ = runner.communicate(timeout=30)
    assert (out, runner.returncode) == (b"done\n", 0)


def test_first_interrupt_is_the_tasks_the_second_kills(cluster: Cluster) -> None:
    polite = "trap 'echo bye; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    running = cluster.start("run", "--cores", "0", "--", "sh", "-c", polite)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=20)
    assert (out, running.returncode) == (b"bye\n", 3)
    deaf = "trap 'echo no' INT; echo ready; while :; do sleep 0.05; done"
    running = cluster.start("run", "--cores", "0", "--", "sh", "-c", deaf)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    running.send_signal(signal.SIGINT)
    assert running.stdout.readline() == b"no\n"
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert running.returncode == 128 + 15
    assert cluster.ok("task", "show", "@last")["state"] == "killed"


def test_term_is_the_tasks_too(cluster: Cluster) -> None:
    polite = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    for command, code in ((polite, 3), ("echo ready; exec sleep 60", 128 + 15)):
        running = cluster.start("run", "--cores", "0", "--", "sh", "-c", command)
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        out, _ = running.communicate(timeout=20)
        assert (out, running.returncode) == (b"bye\n" if code == 3 else b"", code)
        assert cluster.ok("task", "show", "@last")["state"] == "failed"


def test_a_closed_standard_input_is_an_empty_one(cluster: Cluster) -> None:
    line = [HAKURIVER, "--state-dir", str(cluster.folder), "run", "-i", "--cores", "0", "--", "wc", "-c"]
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *line], capture_output=True, timeout=30, env=cluster.env(), check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"0", b"")


def test_run_says_why_a_command_could_not_be_started(cluster: Cluster) -> None:
    done = cluster.cli("run", "--cores", "0", "--", "/no/such/command")
    assert done.code == 127
    assert "/no/such/command" in done.err


def test_a_long_range_is_killed_quickly(cluster: Cluster) -> None:
    """One request for each would cost thousands of times one, a few for all about twenty times."""
    (node,) = cluster.ok("nodes")
    before = cluster.submit("sleep", "600", flags=["--cores", str(node["cores"])])
    targets = [word for _ in range(1000) for word in ("--target", node["name"])]
    for _ in range(5):
        cluster.ok("task", "submit", *targets, "--", "true")
    began = time.monotonic()
    cluster.ok("task", "kill", str(before + 5000))
    one = time.monotonic() - began
    began = time.monotonic()
    killed = cluster.ok("task", "kill", f"{before}-{before + 4999}")
    assert time.monotonic() - began < 100 * one
    assert [task["id"] for task in killed] == list(range(before, before + 5000))
    assert {task["state"] for task in killed} == {"stopping", "killed"}
    cluster.wait(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_what_still_waits_takes_it_out_of_the_queue(
    cluster: Cluster, number: signal.Signals
) -> None:
    blocker = cluster.submit("sleep", "60", flags=["--cores", "2"])
    cluster.running(blocker)
    running = cluster.start("run", "--", "true")
    assert running.stderr is not None
    running.stderr.readline()
    running.send_signal(number)
    running.communicate(timeout=20)
    assert running.returncode == 128 + number
    assert cluster.ok("task", "show", "@last")["state"] == "killed"
    cluster.ok("task", "kill", str(blocker))
    cluster.wait(blocker)


def test_a_closed_pipe_is_quiet_and_ends_the_run(cluster: Cluster) -> None:
    line = f"{HAKURIVER} --state-dir '{cluster.folder}' run --cores 0 -- yes | head -n 3"
    done = subprocess.run(
        ["bash", "-c", f"{line}; echo ${{PIPESTATUS[0]}} >&2"],
        capture_output=True,
        env=cluster.env(),
        timeout=40,
        check=False,
    )
    assert done.stdout == b"y\ny\ny\n"
    assert done.stderr == b"141\n"
    (ended,) = cluster.wait(cluster.ok("task", "show", "@last")["id"])
    assert ended["state"] == "killed"
    listing = f"{HAKURIVER} --state-dir '{cluster.folder}' task list -n 1000 | true"
    assert (
        subprocess.run(["bash", "-c", listing], capture_output=True, env=cluster.env(), check=False).stderr
        == b""
    )


def test_detached(cluster: Cluster) -> None:
    result = cluster.cli("run", "--detach", "--cores", "0", "--", "sh", "-c", "exit 6")
    assert result.code == 0
    assert cluster.cli("task", "wait", result.out.decode().strip()).code == 6


def _in_terminal(cluster: Cluster, *arguments: str, columns: int = 100, **environ: str) -> str:
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [HAKURIVER, "--state-dir", str(cluster.folder), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=cluster.env() | {"TERM": "xterm-256color", "COLUMNS": str(columns), **environ},
        )
        os.close(theirs)
        shown = b""
        try:
            while piece := screen.read(65536):
                shown += piece
        except OSError:  # the other side is closed
            pass
        process.wait(20)
    return shown.decode()


def test_a_terminal_gets_colours_but_nothing_of_the_tasks_own(cluster: Cluster) -> None:
    evil = "\x1b]0;owned\x07\x1b[2Jevil\x9b5m"
    task = cluster.submit("printf", "%s\\n", evil, flags=["--cores", "0", "--tag", "evil"])
    cluster.wait(task)
    assert _in_terminal(cluster, "task", "logs", str(task)) == "evil\r\n"
    for arguments in (["task", "list", "--tag", "evil"], ["task", "show", str(task)]):
        shown = _in_terminal(cluster, *arguments)
        assert "evil" in shown
        assert not any(bad in shown for bad in ("owned", "\x1b[2J", "\x07", "\x9b"))
        assert "\x1b[" in shown, "a state has a colour"
        assert "\x1b" not in _in_terminal(cluster, *arguments, NO_COLOR="1")
    assert evil.encode() in cluster.log(task), "raw when piped"


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_tables_fit_the_terminal(cluster: Cluster, columns: int) -> None:
    task = cluster.submit("echo", "x" * 300)
    shown = _in_terminal(cluster, "task", "list", "-n", "3", columns=columns, NO_COLOR="1")
    assert str(task) in shown.splitlines()[1]
    assert max(len(line) for line in shown.splitlines()) <= columns


@contextmanager
def _forgetful_proxy(target: str) -> Iterator[str]:
    """Passes requests on, but loses the first answer to a POST: its client can't know what became of it."""
    parts = urlsplit(target)
    lost = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client, socket.create_connection((parts.hostname or "", parts.port or 0)) as host:
                client.settimeout(0.3)
                request = b""
                try:
                    while piece := client.recv(65536):
                        request += piece
                        host.sendall(piece)
                except TimeoutError:
                    pass
                host.settimeout(1)
                answer = host.recv(1 << 20)
                if request.startswith(b"POST") and not lost.is_set():
                    lost.set()
                    continue
                client.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    with closing(server):
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    assert lost.is_set()


def test_a_lost_answer_submits_once(cluster: Cluster) -> None:
    with _forgetful_proxy(cluster.daemons()["host"]["url"]) as url:
        done = subprocess.run(
            [
                *[HAKURIVER, "--host", url, "--token-file", str(cluster.layout.user_token)],
                *["task", "submit", "--cores", "0", "--container", "NULL", "--tag", "once", "--", "true"],
            ],
            capture_output=True,
            env=cluster.env(),
            timeout=40,
            check=False,
        )
    assert done.returncode == 0, done
    assert [task["id"] for task in cluster.ok("task", "list", "--tag", "once")] == [int(done.stdout)]


def test_doctor_finds_nothing_that_fails(cluster: Cluster) -> None:
    result = cluster.cli("--json", "doctor")
    checks: list[dict[str, Any]] = result.json
    assert [check for check in checks if check["status"] == "fail"] == []
    assert result.code == 0
    assert {"python", "state folder", "filesystem", "disk", "credentials", "supervisor", "host", "clock"} <= {
        check["check"] for check in checks
    }
    cluster.layout.user_token.chmod(0o644)
    try:
        broken = cluster.cli("doctor")
    finally:
        cluster.layout.user_token.chmod(0o600)
    assert broken.code == 1
    assert "chmod 600" in broken.out.decode()


def test_everything_by_python_m(cluster: Cluster) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hakuriver", "task", "list", "--state-dir", str(cluster.folder), "--json"],
        capture_output=True,
        env=cluster.env(),
        timeout=30,
        check=True,
    )
    assert isinstance(json.loads(done.stdout), list)


def _lives(pid: int) -> bool:
    """Whether a process runs; one that nobody reaped doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_supervisor_may_die(own_cluster: Cluster) -> None:
    task = own_cluster.submit("sleep", "60", flags=["--cores", "0"])
    own_cluster.running(task)
    before = own_cluster.daemons()
    os.kill(before["supervisor"]["pid"], signal.SIGKILL)
    until(lambda: own_cluster.ok("status")["supervisor"]["pid"] is None, "its end is noticed")
    assert own_cluster.show(task)["state"] == "running", "the daemons go on"
    own_cluster.up()
    after = own_cluster.daemons()
    assert after["host"]["url"] == before["host"]["url"]
    for part in ("host", "runner"):
        assert after[part]["pid"] != before[part]["pid"]
        assert not _lives(before[part]["pid"])
    os.kill(after["supervisor"]["pid"], signal.SIGKILL)
    down = own_cluster.cli("down")
    assert down.code == 0
    assert "1 task still runs on" in down.out.decode()
    for part in ("host", "runner"):
        assert not _lives(after[part]["pid"])
    assert own_cluster.cli("down").code == 0, "down again is fine"
    own_cluster.up()
    assert own_cluster.show(task)["state"] == "running"


def test_a_daemon_that_dies_is_started_again_and_counted(own_cluster: Cluster) -> None:
    own_cluster.kill9("host")
    own_cluster.kill9("host", "runner")
    status = own_cluster.ok("status")
    assert (status["host"]["crashes"], status["runner"]["crashes"]) == (2, 1)
    doctor = own_cluster.cli("doctor")
    assert doctor.code == 0
    assert "restarted 2 times" in doctor.out.decode()


def test_down_with_kill_leaves_nothing(own_cluster: Cluster) -> None:
    task = own_cluster.submit("sleep", "60", flags=["--cores", "0"])
    own_cluster.running(task)
    assert own_cluster.ok("down", "--kill") == {"stopped": True, "tasks": {}}
    own_cluster.up()
    assert own_cluster.show(task)["state"] == "killed"
