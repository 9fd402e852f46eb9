"""Real work, with exact exit codes or signals and whole logs."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.cluster import HAKURIVER, Cluster
from tests.waiting import until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 300 files and 60 MB."""
    root = tmp_path_factory.mktemp("data")
    source = random.Random(7)
    for number in range(300):
        path = root / f"{number % 17}" / f"file {number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(source.randbytes(200_000))
    return root


def test_tar_and_sha256_of_a_large_folder(cluster: Cluster, folder: Path) -> None:
    pack = f"tar --sort=name --mtime=@0 -C '{folder}' -cf - . | sha256sum"
    expected = subprocess.run(["sh", "-c", pack], capture_output=True, check=True).stdout
    task = cluster.submit("sh", "-c", pack)
    (ended,) = cluster.wait(task)
    assert (ended["state"], ended["exit_code"], ended["signal"]) == ("completed", 0, None)
    assert cluster.log(task) == expected


def test_a_python_script_over_real_files_in_the_callers_folder(cluster: Cluster, folder: Path) -> None:
    script = folder.parent / "count.py"
    script.write_text(
        "import hashlib, pathlib, sys\n"
        "for path in sorted(pathlib.Path('.').rglob('*.bin')):\n"
        "    print(path, hashlib.sha256(path.read_bytes()).hexdigest())\n"
        "print('done', file=sys.stderr)\n"
    )
    (task,) = cluster.ok("task", "submit", "--", sys.executable, str(script), cwd=folder)
    (ended,) = cluster.wait(task["id"])
    assert (ended["state"], ended["executor"], ended["workdir"]) == ("completed", "process", str(folder))
    lines = cluster.log(task["id"]).decode().splitlines()
    assert len(lines) == 300
    assert (
        lines[0].split()[-1]
        == hashlib.sha256((folder / lines[0].rpartition(" ")[0]).read_bytes()).hexdigest()
    )
    assert cluster.log(task["id"], "--stderr") == b"done\n"


@pytest.mark.parametrize(
    ("command", "state", "code", "signal"),
    [
        (["true"], "completed", 0, None),
        (["sh", "-c", "echo out; echo err >&2; exit 7"], "failed", 7, None),
        (["sh", "-c", "exit 139"], "failed", 139, None),
        (["sh", "-c", "kill -SEGV $$"], "failed", None, 11),
        (["sh", "-c", "kill -KILL $$"], "failed", None, 9),
        (["no-such-command"], "failed", 127, None),
        (["/etc/passwd"], "failed", 126, None),
    ],
)
def test_how_a_command_ends(
    cluster: Cluster, command: list[str], state: str, code: int | None, signal: int | None
) -> None:
    task = cluster.submit(*command)
    (ended,) = cluster.wait(task)
    assert (ended["state"], ended["exit_code"], ended["signal"]) == (state, code, signal)
    if code in (126, 127):
        assert command[0] in ended["error"]


def test_submit_wait_returns_the_tasks_code(cluster: Cluster) -> None:
    result = cluster.cli("--json", "task", "submit", "--wait", "--", "sh", "-c", "exit 7")
    assert result.code == 7
    last = cluster.ok("task", "show", "@last")
    assert (last["state"], last["exit_code"]) == ("failed", 7)
    assert cluster.cli("run", "--", "sh", "-c", "kill -TERM $$").code == 128 + 15
    assert cluster.cli("run", "--", "no-such-command").code == 127


def test_run_is_like_running_it_here(cluster: Cluster, tmp_path: Path) -> None:
    result = cluster.cli(
        "run", "--", "sh", "-c", "pwd; echo oops >&2; printf 'no newline'; exit 3", cwd=tmp_path
    )
    assert result.code == 3
    assert result.out == f"{tmp_path}\nno newline".encode()
    assert "oops" in result.err
    piped = cluster.cli("run", "-i", "--", "tr", "a-z", "A-Z", stdin=b"typed\n" * 30_000)
    assert piped.code == 0, piped.err
    assert piped.out == b"TYPED\n" * 30_000


def test_two_hundred_short_tasks_at_once(cluster: Cluster) -> None:
    tasks = [cluster.submit("true", flags=["--cores", "0"]) for _ in range(3)]
    result = subprocess.run(
        [
            "xargs",
            "-P",
            "8",
            "-I{}",
            HAKURIVER,
            "--state-dir",
            str(cluster.folder),
            "-q",
            "task",
            "submit",
            "--",
            "sh",
            "-c",
            "echo out {}; echo err {} >&2; exit $(({} % 4))",
        ],
        input="\n".join(map(str, range(200))).encode(),
        capture_output=True,
        env=cluster.env(),
        timeout=110,
        check=True,
    )
    ids = sorted(map(int, result.stdout.split()))
    assert len(set(ids)) == 200
    assert min(ids) > max(tasks)
    cluster.cli("task", "wait", f"{ids[0]}-{ids[-1]}")
    found = {task["id"]: task for task in cluster.ok("task", "list", "-n", "300") if task["id"] in ids}
    assert len(found) == 200
    for task in found.values():
        number = int(task["command"][2].split()[2].rstrip(";"))
        assert task["exit_code"] == number % 4
        assert task["state"] == ("completed" if number % 4 == 0 else "failed")
    for task_id in random.Random(1).sample(ids, 12):
        number = int(found[task_id]["command"][2].split()[2].rstrip(";"))
        assert cluster.log(task_id) == f"out {number}\n".encode()
        assert cluster.log(task_id, "--stderr") == f"err {number}\n".encode()


def test_a_queue_that_waits_in_order_and_says_why(cluster: Cluster, tmp_path: Path) -> None:
    gate, journal = tmp_path / "gate", tmp_path / "journal"
    first = [cluster.submit("sh", "-c", f"while [ ! -e '{gate}' ]; do sleep 0.05; done") for _ in range(2)]
    script = f"echo + $HAKURIVER_TASK_ID >>'{journal}'; sleep 0.1; echo - $HAKURIVER_TASK_ID >>'{journal}'"
    tasks = [cluster.submit("sh", "-c", script) for _ in range(50)]
    waiting = list(cluster.ok("task", "list", "--state", "pending", "-n", "100"))
    assert [task["id"] for task in waiting] == tasks[::-1]
    assert all(task["reason"] for task in waiting)
    assert "core" in waiting[-1]["reason"]
    gate.touch()
    cluster.wait(*first)
    ended = cluster.wait(*tasks)
    assert {task["state"] for task in ended} == {"completed"}
    started, now, most = [], 0, 0
    for line in journal.read_text().splitlines():
        sign, task_id = line.split()
        now += 1 if sign == "+" else -1
        most = max(most, now)
        started += [int(task_id)] if sign == "+" else []
    assert most == 2, "never more than two at once on two cores, and never idle"
    assert all(abs(started.index(task) - place) <= 1 for place, task in enumerate(tasks)), "in order"


def test_kill_pause_and_resume(cluster: Cluster, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    task = cluster.submit("sh", "-c", f"while :; do echo . >>'{ticks}'; sleep 0.05; done")
    cluster.running(task)
    assert cluster.ok("task", "pause", str(task))
    until(lambda: cluster.show(task)["state"] == "paused", "paused")
    size = ticks.stat().st_size
    assert cluster.show(task)["state"] == "paused"
    assert ticks.stat().st_size == size, "a paused task does nothing"
    assert cluster.ok("task", "resume", str(task))
    until(lambda: ticks.stat().st_size > size + 3, "it goes on")
    assert cluster.ok("task", "kill", str(task))
    (ended,) = cluster.wait(task)
    assert (ended["state"], ended["signal"]) == ("killed", 15)
    assert cluster.cli("task", "kill", str(task)).code == 0, "killing what has ended is fine"
    assert cluster.cli("task", "pause", str(task)).code == 6


def test_a_name_means_the_living_one_or_for_reading_the_newest(cluster: Cluster) -> None:
    for code in (3, 4):
        cluster.wait(cluster.submit("sh", "-c", f"echo {code}; exit {code}", flags=["--name", "again"]))
    assert cluster.ok("task", "show", "again")["exit_code"] == 4
    assert cluster.cli("task", "logs", "again").out == b"4\n"
    assert cluster.cli("task", "wait", "again").code == 4
    refused = cluster.cli("task", "kill", "again")
    assert refused.code == 3
    assert "no live task is called again" in refused.err
