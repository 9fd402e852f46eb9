"""The queue from the command line: GPUs, order, holds, batches and sweeps, nodes out of use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from hakuriver import __version__
from tests.e2e.cluster import HAKURIVER, Cluster, end_all
from tests.fakes import driver
from tests.fakes.driver import FakeDriver, uuid
from tests.waiting import until


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    """A driver with eight GPUs, of which one is lost and one is somebody else's."""
    folder = tmp_path_factory.mktemp("gpus")
    found = FakeDriver(driver.build(folder), folder / "state")
    found.say(f"6 ret {driver.LOST}", f"7 proc {os.getpid()} 100")
    return found


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, fake: FakeDriver) -> Iterator[Cluster]:
    """A cluster whose one node has GPUs, a label and two cores."""
    environ = {**fake.environ, "HAKURIVER_NODE_LABELS": "room=b12", "HAKURIVER_NODE_NAME": "n1"}
    found = Cluster(tmp_path_factory.mktemp("queue") / "state", environ=environ, cpus=_two_cpus())
    found.up()
    until(lambda: found.ok("node", "show", "n1")["gpus"][7]["external"], "the GPUs were measured", seconds=30)
    yield found
    found.down()


def _two_cpus() -> set[int]:
    return set(sorted(os.sched_getaffinity(0))[:2])


@contextmanager
def _all_cores_taken(cluster: Cluster) -> Iterator[int]:
    """Both cores are a task's until the block ends; its id."""
    taken = cluster.submit("sleep", "300", flags=["--cores", "2", "--time-limit", "1h"])
    cluster.running(taken)
    yield taken
    cluster.ok("task", "kill", str(taken))
    cluster.wait(taken)


def _fact(cluster: Cluster, task: int, label: str) -> str:
    """What ``task show`` says under a label."""
    lines = cluster.cli("task", "show", str(task)).out.decode().splitlines()
    (found,) = [line.removeprefix(label).strip() for line in lines if line.startswith(f"{label} ")]
    return found


def test_gpus_of_a_node(labelled: Cluster) -> None:
    shown = labelled.cli("node", "show", "n1").out.decode()
    assert "room=b12" in shown
    lines = labelled.cli("nodes", "--gpus").out.decode().splitlines()
    assert lines[0].split()[:4] == ["NODE", "GPU", "MODEL", "FOR"]
    assert len(lines) == 9
    assert "lost: " in lines[7]
    assert "external" in lines[8]
    assert uuid(0) in lines[1]
    for line in lines[1:]:
        assert line.removeprefix("n1").strip() in shown
    assert "6/8 free" in labelled.cli("nodes").out.decode()


def test_gpus_are_picked_or_named_and_shown(labelled: Cluster) -> None:
    picked = labelled.submit("sh", "-c", "echo $HAKURIVER_GPUS $CUDA_VISIBLE_DEVICES", flags=["--gpus", "2"])
    (ended,) = labelled.wait(picked)
    assert labelled.log(picked).decode().split() == [
        ",".join(map(str, ended["gpus"])),
        ",".join(map(uuid, ended["gpus"])),
    ]
    assert set(ended["gpus"]) <= set(range(6))
    assert _fact(labelled, picked, "wants gpus") == "2"
    taken = labelled.submit("sleep", "60", flags=["--target", "n1::3", "--cores", "0"])
    labelled.running(taken)
    gpu = labelled.cli("nodes", "--gpus").out.decode().splitlines()[4]
    assert f"task {taken} " in gpu
    labelled.ok("task", "kill", str(taken))
    warned = labelled.cli("task", "submit", "--target", "n1::7", "--cores", "0", "--hold", "--", "true")
    assert warned.code == 0
    assert "GPU 7" in warned.err
    labelled.ok("task", "kill", "@last")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--gpus", "9"], "8 GPUs, not 9"),
        (["--gpus", "1:h900"], "h900"),
        (["--label", "room=b13"], "room=b13"),
        (["--target", "n1::42"], "no GPU 42"),
    ],
)
def test_what_can_never_be_is_refused(labelled: Cluster, flags: list[str], says: str) -> None:
    refused = labelled.cli("task", "submit", *flags, "--", "true")
    assert (refused.code, refused.out) == (7, b"")
    assert says in refused.err


def test_higher_priority_goes_first_and_explain_says_who_is_before(labelled: Cluster) -> None:
    with _all_cores_taken(labelled) as taken:
        low = labelled.submit("true", flags=["--cores", "2", "--priority", "-1"])
        high = labelled.submit("true", flags=["--cores", "2", "--priority", "1", "--name", "urgent"])
        found = labelled.ok("task", "explain", str(low))
        assert (found["id"], found["ahead"]) == (low, 1)
        assert found["nodes"][0]["node"] == "n1"
        assert labelled.ok("task", "explain", "urgent")["nodes"][0]["tasks"] == [taken]
        page = labelled.cli("task", "explain", "urgent").out.decode()
        assert f"task       {high}" in page
        assert "2 cores on n1 (0 of 2 free)" in page
        assert "(in 59m" in page or "(in 1h00m)" in page
        several = labelled.ok("task", "explain", f"{low},{high}")
        assert [each["id"] for each in several] == [low, high]
        assert _fact(labelled, high, "priority") == "1"
    first, second = labelled.wait(high, low)
    assert first["started_at"] <= second["started_at"]


def test_held_until_released(labelled: Cluster) -> None:
    held = labelled.submit("true", flags=["--hold", "--name", "held", "--cores", "0"])
    assert "held by" in labelled.ok("task", "explain", "held")["reason"]
    assert _fact(labelled, held, "on hold") == f"until hakuriver task release {held}"
    assert labelled.cli("task", "hold", "held").out.decode() == f"task {held}: pending, on hold\n"
    assert labelled.cli("task", "release", "held").code == 0
    labelled.wait(held)
    late = labelled.cli("task", "hold", str(held))
    assert late.code == 6
    assert f"task {held}" in late.err


def test_after_takes_names_and_what_has_ended(labelled: Cluster) -> None:
    first = labelled.submit("true", flags=["--name", "prepare", "--cores", "0"])
    labelled.wait(first)
    held = labelled.submit("false", flags=["--hold", "--cores", "0"])
    both = labelled.submit("true", flags=["--after", "prepare", "--after", f"{held}", "--cores", "0"])
    assert labelled.show(both)["after"] == [first, held]
    assert labelled.cli("task", "submit", "--after", "nobody", "--", "true").code == 3
    labelled.ok("task", "release", str(held))
    (ended,) = labelled.wait(both)
    assert ended["state"] == "failed"
    assert str(held) in ended["reason"]


def test_retries_time_limit_and_the_same_once_more(labelled: Cluster, tmp_path: Path) -> None:
    script = f"trap 'echo noticed; exit 4' USR1; [ -e {tmp_path}/again ] && exit 0; sleep 30 & wait"
    flags = ["--retries", "1", "--time-limit", "61s", "--notice", "60s", "--cores", "0"]
    task = labelled.submit("sh", "-c", script, flags=flags)
    (ended,) = labelled.wait(task)
    assert (ended["state"], ended["exit_code"], ended["retried"]) == ("failed", 4, 1)
    assert _fact(labelled, task, "time limit") == "1m01s, USR1 1m00s before"
    assert _fact(labelled, task, "retries") == "1 of 1 used"
    assert [attempt["exit_code"] for attempt in labelled.show(task)["attempts"]] == [4, 4]
    assert labelled.log(task) == b"noticed\n"
    (tmp_path / "again").touch()
    again = labelled.cli("task", "resubmit", str(task))
    assert again.code == 0
    (same,) = labelled.wait(int(again.out))
    assert (same["state"], same["time_limit"], same["retries"]) == ("completed", 61, 1)
    assert labelled.cli("task", "resubmit", "999999").code == 3


def test_a_sweep_is_one_batch(labelled: Cluster) -> None:
    words = ["--sweep", "--max-running", "1", "--cores", "0", "--hold", "--", "echo"]
    made = labelled.cli("task", "submit", *words, "--lr=span:[0.1,0.01]", "--seed=span:{1..2}")
    tasks = [int(line) for line in made.out.split()]
    assert made.err.splitlines() == [
        "hakuriver: lr: 2 values × seed: 2 values = 4 tasks",
        f"hakuriver: batch {tasks[0]}: 4 tasks",
    ]
    line = f"batch {tasks[0]}: 4 tasks · 4 pending · at most 1 at a time\n"
    assert labelled.cli("task", "show", "--batch", "@last").out.decode() == line
    assert labelled.ok("task", "show", "--batch", str(tasks[0]))["states"] == {"pending": 4}
    killed = labelled.cli("task", "kill", str(tasks[3]))
    assert killed.code == 0
    assert labelled.cli("task", "release", "--batch", "@last").code == 0
    assert labelled.cli("task", "wait", "--batch", "@last").code == 125  # the killed one never ran
    line = f"batch {tasks[0]}: 4 tasks · 3 completed · 1 killed · at most 1 at a time\n"
    assert labelled.cli("task", "kill", "--batch", str(tasks[0])).out.decode() == line
    assert [labelled.log(task) for task in tasks[:3]] == [
        b"--lr=0.1 --seed=1\n",
        b"--lr=0.1 --seed=2\n",
        b"--lr=0.01 --seed=1\n",
    ]
    assert [task["id"] for task in labelled.ok("task", "list", "--batch", str(tasks[0]))] == tasks[::-1]
    assert _fact(labelled, tasks[1], "batch") == f"{tasks[0]}, task 2 of 4, at most 1 at a time"
    assert labelled.cli("task", "show", "--batch", "999999").code == 3


def test_an_unquoted_sweep_in_a_shell(labelled: Cluster) -> None:
    line = f"{HAKURIVER} --state-dir {labelled.folder} task submit --cores 0 --sweep -- echo -n=span:{{1..3}}"
    done = subprocess.run(
        ["bash", "-c", line], env=labelled.env(), capture_output=True, text=True, timeout=60, check=True
    )
    assert "n: 3 values = 3 tasks" in done.stderr
    tasks = [int(line) for line in done.stdout.split()]
    labelled.wait(*tasks)
    assert [labelled.log(task) for task in tasks] == [b"-n=1\n", b"-n=2\n", b"-n=3\n"]


def test_a_batch_is_paused_and_goes_on(labelled: Cluster) -> None:
    sweep = ["--sweep", "--cores", "1", "--", "sleep", "span:[300,301,302]"]
    tasks = [task["id"] for task in labelled.ok("task", "submit", *sweep)]
    for task in tasks[:2]:
        labelled.running(task)
    assert [task["id"] for task in labelled.ok("task", "pause", "--batch", "@last")] == tasks[:2]
    until(
        lambda: labelled.ok("task", "show", "--batch", "@last")["states"] == {"paused": 2, "pending": 1},
        "two are paused, the third waits for their cores",
    )
    assert [task["id"] for task in labelled.ok("task", "resume", "--batch", "@last")] == tasks[:2]
    labelled.ok("task", "kill", "--batch", "@last")
    assert {task["state"] for task in labelled.wait(*tasks)} == {"killed"}


def test_a_drained_node_takes_nothing_new(labelled: Cluster) -> None:
    drained = labelled.cli("node", "drain", "n1", "nope", "--reason", "new disks")
    assert drained.code == 1
    assert drained.out.decode() == "node n1: online, drained: new disks\n"
    assert "there is no node nope" in drained.err
    assert "online, drained" in labelled.cli("nodes").out.decode()
    task = labelled.submit("true", flags=["--cores", "0"])
    until(lambda: "new disks" in labelled.show(task)["reason"], "the reason is the drain's")
    assert "drained (new disks)" in labelled.cli("task", "explain", str(task)).out.decode()
    assert labelled.ok("node", "undrain", "n1")[0]["drained"] is False
    labelled.wait(task)
    assert labelled.cli("node", "undrain", "nope").code == 3
    assert labelled.cli("node", "remove", "n1").code == 6


def test_a_node_that_is_gone_is_removed(labelled: Cluster, tmp_path: Path) -> None:
    host = labelled.ok("status")["host"]["url"]
    config = tmp_path / "n2.toml"
    config.write_text(
        f'[paths]\nstate_dir = "{tmp_path / "n2"}"\ncredentials_dir = "{labelled.layout.credentials}"\n'
    )
    words = ["runner", "--config", str(config), "--name", "n2", "--port", "0", "--host", host]
    runner = subprocess.Popen([HAKURIVER, *words], env=labelled.env(), stderr=subprocess.DEVNULL)
    try:
        until(lambda: "n2" in labelled.cli("nodes", "-q").out.decode().split(), "n2 has joined", seconds=30)
        task = labelled.submit("sleep", "300", flags=["--target", "n2"])
        pid = labelled.running(task)["id"] and task
        runner.send_signal(signal.SIGTERM)
        runner.wait(30)
        refused = labelled.cli("node", "remove", "n2")
        assert refused.code == 6
        assert str(pid) in refused.err
        assert labelled.cli("node", "remove", "n2", "--force").out == b"node n2: removed\n"
        (lost,) = labelled.wait(task)
        assert lost["state"] == "lost"
        assert labelled.cli("nodes", "-q").out == b"n1\n"
    finally:
        runner.kill()
        runner.wait()
        end_all(tmp_path / "n2")


@contextmanager
def _host_of_version(version: str) -> Iterator[str]:
    """A host of another version, as far as it gets with what it doesn't know."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            known = self.path == "/api/cluster"
            body = json.dumps(
                {"version": version}
                if known
                else {"error": {"code": "no_such_method", "message": f"{self.path} has no {self.command}"}}
            ).encode()
            self.send_response(200 if known else 405)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("0.3.9", f"the host is of version 0.3.9, older than this command ({__version__})"),
        (__version__, "the host runs older code than this command"),
    ],
)
@pytest.mark.parametrize("line", ["task hold 5", "task resubmit 5 6", "node drain n1", "task explain 5"])
def test_an_older_host_is_called_so(
    version: str, says: str, line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from hakuriver.cli.main import main

    with _host_of_version(version) as url:
        environ = {"HAKURIVER_HOST": url, "HAKURIVER_TOKEN": "x", "HOME": str(tmp_path)}
        assert main(line.split(), environ) == 1
    shown = capsys.readouterr()
    assert says in shown.err
    assert "update the host" in shown.err
    assert shown.err.count("\n") == 2
