from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time

import pytest

from hakuriver.errors import Conflict, UsageError
from hakuriver.paths import MAX_STDIN
from tests.runner.peer import Runner, eventually


@pytest.mark.parametrize(
    ("command", "state", "code", "number"),
    [
        (["true"], "completed", 0, None),
        (["sh", "-c", "exit 7"], "failed", 7, None),
        (["sh", "-c", "exit 139"], "failed", 139, None),
        (["sh", "-c", "kill -SEGV $$"], "failed", None, signal.SIGSEGV),
        (["sh", "-c", "kill -KILL $$"], "failed", None, signal.SIGKILL),
    ],
)
def test_the_exact_end_is_reported(
    shared_runner: Runner, command: list[str], state: str, code: int | None, number: int | None
) -> None:
    end = shared_runner.run(*command)
    assert (end["state"], end["exit_code"], end["signal"]) == (state, code, number)
    assert end["started_at"] <= end["ended_at"]


def test_what_cant_be_executed_says_why(shared_runner: Runner, tmp_path: object) -> None:
    end = shared_runner.run("no-such-command-here")
    assert (end["state"], end["exit_code"]) == ("failed", 127)
    assert end["error"] == "no-such-command-here: command not found"
    end = shared_runner.run("")
    assert (end["exit_code"], end["error"]) == (127, "the command is an empty word")
    end = shared_runner.run(f"{tmp_path}/nothing")
    assert (end["exit_code"], end["error"]) == (127, f"{tmp_path}/nothing: no such file")
    script = f"{tmp_path}/script"
    with open(script, "w") as file:
        file.write("echo hi\n")
    end = shared_runner.run(script)
    assert (end["exit_code"], end["error"]) == (126, f"{script}: permission denied")
    os.chmod(script, 0o755)
    end = shared_runner.run(script)
    assert end["exit_code"] == 126
    assert "must start with #!" in end["error"]
    end = shared_runner.run("/")
    assert (end["exit_code"], end["error"]) == (126, "/: is a folder")
    end = shared_runner.run("true", workdir="/no/such/place")
    assert (end["state"], end["exit_code"]) == ("failed", None)
    assert end["error"] == "can't enter the working directory /no/such/place: No such file or directory"


def test_the_environment_is_built_not_inherited(shared_runner: Runner) -> None:
    task = shared_runner.submit("env", "-0", env={"MINE": "grüße"}, numa=0, gpus=[1, 2], target="n1:0::1,2")
    shared_runner.host.end(task)
    variables = dict(
        each.split("=", 1) for each in shared_runner.whole_log(task).decode().split("\0") if each
    )
    assert "SECRET_OF_THE_DAEMON" not in variables
    assert variables["MINE"] == "grüße"
    tools = shared_runner.layout.runner / "bin"
    assert variables["PATH"] == f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{tools}"
    assert variables["HAKURIVER_TASK_ID"] == str(task)
    assert variables["HAKURIVER_ATTEMPT"] == "1"
    assert variables["HAKURIVER_NODE"] == "n1"
    assert variables["HAKURIVER_TARGET"] == "n1:0::1,2"
    assert variables["HAKURIVER_TARGET_NUMA_NODE"] == "0"
    assert variables["HAKURIVER_GPUS"] == "1,2"
    assert variables["HAKURIVER_SHARED_DIR"] == str(shared_runner.layout.shared)
    assert set(variables) - {key for key in variables if key.startswith("HAKURIVER_")} == {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "MINE"),
    }


def test_a_task_starts_with_default_signals_and_its_own_session(shared_runner: Runner) -> None:
    code = "import os; print(open('/proc/self/status').read()); print(os.getsid(0) == os.getpid())"
    task = shared_runner.submit(sys.executable, "-S", "-c", code)
    shared_runner.host.end(task)
    text = shared_runner.whole_log(task).decode()
    facts = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert int(facts["SigBlk"], 16) == 0
    # Python itself ignores SIGPIPE and SIGXFSZ; 32 and 33 are the C library's own (posix_spawn ignores 32)
    spared = {signal.SIGPIPE, signal.SIGXFSZ, 32, 33}
    assert int(facts["SigIgn"], 16) & ~sum(1 << number - 1 for number in spared) == 0
    assert text.rstrip().endswith("True")


def test_output_is_kept_apart_and_readable_by_range(shared_runner: Runner) -> None:
    task = shared_runner.submit("sh", "-c", "seq 1000; echo oops >&2")
    shared_runner.host.end(task)
    whole = "".join(f"{number}\n" for number in range(1, 1001)).encode()
    assert shared_runner.whole_log(task) == whole
    assert shared_runner.whole_log(task, "stderr") == b"oops\n"
    part = shared_runner.logs(task, offset=2, limit=3)
    assert (part.data, part.offset, part.size, part.ended) == (whole[2:5], 2, len(whole), True)
    assert shared_runner.logs(task, tail=3).data == b"998\n999\n1000\n"
    assert shared_runner.logs(task, offset=10**9).data == b""


def test_background_children_are_ended_with_the_task(shared_runner: Runner) -> None:
    started = time.monotonic()
    end = shared_runner.run(
        "sh", "-c", "sleep 1000 & setsid sleep 1000 & (trap '' TERM; sleep 1000) & exit 3"
    )
    assert (end["state"], end["exit_code"]) == ("failed", 3)
    assert shared_runner.pids(end["task"]) == []
    assert time.monotonic() - started < 100  # not the children's 1000


def test_a_kill_reaches_the_whole_tree(shared_runner: Runner) -> None:
    tree = "setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000 & sleep 1000"
    task = shared_runner.submit("sh", "-c", tree)
    eventually(lambda: len(shared_runner.pids(task)) >= 5, what="the whole tree")
    end = shared_runner.kill(task)
    assert (end["state"], end["signal"], end["reason"]) == ("killed", signal.SIGTERM, "killed by bob")
    assert end["intent_version"] == 1
    assert shared_runner.pids(task) == []


def test_a_task_that_ignores_term_is_killed_after_its_grace(shared_runner: Runner) -> None:
    task = shared_runner.submit("sh", "-c", "trap 'echo heard' TERM; echo ready; while :; do sleep 0.1; done")
    eventually(lambda: shared_runner.logs(task).data)
    started = time.monotonic()
    end = shared_runner.kill(task, grace=1)
    assert 0.9 < time.monotonic() - started < 15
    assert (end["state"], end["signal"]) == ("killed", signal.SIGKILL)
    assert shared_runner.whole_log(task) == b"ready\nheard\n"


def test_a_task_that_ends_by_itself_on_term_keeps_its_exit_code(shared_runner: Runner) -> None:
    task = shared_runner.submit("sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    eventually(lambda: shared_runner.logs(task).data)
    end = shared_runner.kill(task)
    assert (end["state"], end["exit_code"], end["signal"]) == ("killed", 5, None)


def test_pause_stops_it_resume_goes_on_and_a_paused_one_can_be_killed(shared_runner: Runner) -> None:
    host = shared_runner.host
    task = shared_runner.submit("sh", "-c", "while :; do echo tick; sleep 0.02; done")
    eventually(lambda: shared_runner.logs(task).data)
    shared_runner.intend(task, "pause", 1)
    assert host.state(task, "paused")["intent_version"] == 1
    size = shared_runner.logs(task).size
    time.sleep(0.3)  # long enough for fifteen ticks
    assert shared_runner.logs(task).size == size
    shared_runner.intend(task, "run", 2)
    host.wait(lambda: any(r["intent_version"] == 2 and r["state"] == "running" for r in host.of(task)))
    eventually(lambda: shared_runner.logs(task).size > size, what="going on")
    shared_runner.intend(task, "pause", 3)
    host.wait(lambda: any(r["intent_version"] == 3 for r in host.of(task)))
    end = shared_runner.kill(task, 4)
    assert (end["state"], end["signal"]) == ("killed", signal.SIGTERM)
    assert shared_runner.pids(task) == []


def test_a_signal_is_delivered_now_or_never(shared_runner: Runner) -> None:
    task = shared_runner.submit(
        "sh", "-c", "trap 'echo usr1; exit 0' USR1; echo ready; while :; do sleep 0.05; done"
    )
    eventually(lambda: shared_runner.logs(task).data)
    shared_runner.signal(task, signal.SIGUSR1)
    assert shared_runner.host.end(task)["state"] == "completed"
    assert shared_runner.whole_log(task) == b"ready\nusr1\n"
    with pytest.raises(Conflict):
        shared_runner.signal(task, signal.SIGUSR1)


def test_stdin_arrives_exactly_once(shared_runner: Runner) -> None:
    task = shared_runner.submit("cat", stdin=True)
    shared_runner.host.state(task, "running")
    assert shared_runner.stdin(task, b"hello ") == 6
    assert shared_runner.stdin(task, b"hello world") == 11
    assert shared_runner.stdin(task, b"wor", 6) == 11
    with pytest.raises(Conflict, match="continue at 11"):
        shared_runner.stdin(task, b"x", 20)
    assert shared_runner.stdin(task, b"!", 11, eof=True) == 12
    assert shared_runner.host.end(task)["state"] == "completed"
    assert shared_runner.whole_log(task) == b"hello world!"


def test_much_input_arrives_whole_even_where_it_is_read_late(shared_runner: Runner) -> None:
    data = random.Random(3).randbytes(5 * MAX_STDIN // 2)
    task = shared_runner.submit("sh", "-c", "sleep 0.5; sha256sum", stdin=True)
    shared_runner.host.state(task, "running")
    reached = 0
    while reached < len(data):
        piece = data[reached : reached + MAX_STDIN]
        reached = shared_runner.stdin(task, piece, reached, eof=reached + len(piece) == len(data))
    assert shared_runner.host.end(task)["state"] == "completed"
    assert shared_runner.whole_log(task).split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_input_that_nobody_reads_is_not_waited_for(shared_runner: Runner) -> None:
    task = shared_runner.submit("sh", "-c", "exec <&-; echo closed; exec sleep 60", stdin=True)
    eventually(lambda: shared_runner.logs(task).data)
    with pytest.raises(Conflict) as caught:
        shared_runner.stdin(task, b"x")
    assert caught.value.instance_code == "stdin_closed"
    with pytest.raises(UsageError, match="larger than"):
        shared_runner.stdin(task, bytes(MAX_STDIN + 1))
    shared_runner.kill(task)
    with pytest.raises(Conflict) as caught:
        shared_runner.stdin(task, b"x")
    assert caught.value.instance_code == "not_running"


def test_a_task_that_does_not_read_has_room_for_some_input(shared_runner: Runner) -> None:
    task = shared_runner.submit("sleep", "60", stdin=True)
    shared_runner.host.state(task, "running")
    reached, before = 0, -1
    while reached > before:
        before, reached = reached, shared_runner.stdin(task, bytes(MAX_STDIN), reached)
    assert 0 < reached <= MAX_STDIN
    shared_runner.kill(task)


def test_a_task_without_stdin_reads_nothing(shared_runner: Runner) -> None:
    assert shared_runner.run("cat")["exit_code"] == 0
    task = shared_runner.submit("sleep", "60")
    shared_runner.host.state(task, "running")
    with pytest.raises(Conflict):
        shared_runner.stdin(task, b"x")
    shared_runner.kill(task)


def test_affinity_follows_the_cores_asked_for(shared_runner: Runner) -> None:
    show = "import os; print(len(os.sched_getaffinity(0)))"
    everything = len(os.sched_getaffinity(0))
    for cores, expected in ((0, everything), (0.5, 1), (1, 1), (4096, everything)):
        task = shared_runner.submit(sys.executable, "-S", "-c", show, cores=cores)
        shared_runner.host.end(task)
        assert int(shared_runner.whole_log(task)) == expected


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_two_tasks_get_a_cpu_each(shared_runner: Runner) -> None:
    show = "import os, time; print(*os.sched_getaffinity(0), flush=True); time.sleep(60)"
    tasks = [shared_runner.submit(sys.executable, "-S", "-c", show, cores=1) for _ in range(2)]
    cpus = [eventually(lambda task=task: shared_runner.logs(task).data) for task in tasks]  # type: ignore[misc]
    assert cpus[0] != cpus[1]
    for task in tasks:
        shared_runner.kill(task)
