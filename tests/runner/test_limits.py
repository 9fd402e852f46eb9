"""Memory, disk, logs without end, and many tasks at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hakuriver.errors import StorageFull
from tests.runner.peer import CLUSTER, Host, Runner, eventually

MIB = 2**20
EAT = "data = bytearray({size}); print('filled', flush=True); import time; time.sleep(60)"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts of its own")


def eat(size: int) -> list[str]:
    return [sys.executable, "-S", "-c", EAT.format(size=size)]


def test_memory_limit_by_control_group(shared_runner: Runner) -> None:
    if "memory_limits=cgroup" not in shared_runner.log:
        pytest.skip("no memory control groups to make here")
    end = shared_runner.run(*eat(200 * MIB), memory=64 * MIB)
    assert (end["state"], end["signal"], end["oom_events"]) == ("killed_oom", 9, 1)
    assert end["reason"] == "over its memory limit of 67M"
    # a child died of it, the task itself went on: a flag, not its end
    end = shared_runner.run("sh", "-c", '"$@"; exit 3', "sh", *eat(200 * MIB), memory=64 * MIB)
    assert (end["state"], end["exit_code"]) == ("failed", 3)
    assert end["oom_events"] >= 1
    # what only ends like it is not it
    end = shared_runner.run("sh", "-c", "kill -9 $$", memory=64 * MIB)
    assert (end["state"], end["oom_events"]) == ("failed", 0)
    parent = f"hakuriver-{shared_runner.host.registrations[-1]['runner'][:8]}"
    groups = [each for each in Path("/sys/fs/cgroup").glob(f"**/{parent}/*") if each.is_dir()]
    assert groups == [], "groups are removed with their tasks"


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Runner]:
    """A runner that can make no control groups."""
    host = Host()
    hide = 'umount -l -R /sys/fs/cgroup; exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", hide, "sh"] if os.geteuid() == 0 else []
    runner = Runner(tmp_path / "state", host, prefix=prefix).start()
    assert "memory_limits=watched" in runner.log
    try:
        yield runner
    finally:
        runner.close()
        host.close()


def test_memory_limit_by_watching(watched: Runner) -> None:
    end = watched.run(*eat(200 * MIB), memory=64 * MIB)
    assert (end["state"], end["signal"], end["oom_events"]) == ("killed_oom", 9, 1)
    task = watched.submit("sh", "-c", '"$@" & "$@" & wait', "sh", *eat(40 * MIB), memory=64 * MIB)
    assert watched.host.end(task)["state"] == "killed_oom", "all processes of a task count together"
    # reserved but untouched memory is not used: no limit on addresses
    code = "import mmap; mmap.mmap(-1, 2**36, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)"
    assert watched.run(sys.executable, "-S", "-c", code, memory=64 * MIB)["state"] == "completed"


def test_memory_that_processes_share_counts_once(watched: Runner) -> None:
    fork = (
        "import os, time; data = bytearray(60 * 2**20); kids = [os.fork() or time.sleep(1.5) or os._exit(0)"
    )
    fork += " for _ in range(4)]; [os.waitpid(kid, 0) for kid in kids]"
    end = watched.run(sys.executable, "-S", "-c", fork, memory=120 * MIB)
    assert end["state"] == "completed"


@pytest.fixture
def capped(tmp_path: Path) -> Iterator[Runner]:
    host = Host()
    runner = Runner(tmp_path / "state", host, flags={"limits.log_cap": MIB}).start()
    try:
        yield runner
    finally:
        runner.close()
        host.close()


def test_a_log_over_its_cap_loses_its_middle_only(capped: Runner) -> None:
    lines = 600_000  # 7 bytes each: 4.2 MB
    gate = capped.state / "gate"
    script = f"seq -f %06.0f 1 {lines}; until [ -e {gate} ]; do sleep 0.05; done; echo the end"
    task = capped.submit("sh", "-c", script)
    capped.host.state(task, "running")
    file = capped.folder(task) / "io" / "out"
    size = lines * 7
    eventually(lambda: file.stat().st_size == size)
    eventually(lambda: file.stat().st_blocks * 512 <= MIB, what="the cap")
    head = capped.logs(task)
    assert head.offset == 0
    assert head.data.startswith(b"000001\n")
    assert MIB // 4 <= len(head.data) < MIB
    assert b"\0" not in head.data
    tail = capped.logs(task, offset=len(head.data))
    assert tail.offset > len(head.data), "the offset jumps over what was dropped"
    assert b"\0" not in tail.data
    assert tail.offset + len(tail.data) == size == tail.size
    assert len(tail.data) >= MIB // 2
    line = (tail.offset + 6) // 7
    assert tail.data[line * 7 - tail.offset :].startswith(f"{line + 1:06}\n".encode()), "offsets stay valid"
    gate.touch()
    capped.host.end(task)
    assert capped.logs(task, tail=2).data == f"{lines:06}\nthe end\n".encode()
    copy = capped.layout.shared / "task_outputs" / f"{task}.out"
    eventually(lambda: copy.exists() and copy.stat().st_size == size + 8, what="the copy")
    assert copy.stat().st_blocks * 512 <= 2 * MIB


def test_a_log_that_grew_faster_than_anybody_looked_is_capped_at_its_end(capped: Runner) -> None:
    task = capped.submit("sh", "-c", "seq -f %06.0f 1 600000; echo the end")
    capped.host.end(task)
    file = capped.folder(task) / "io" / "out"
    eventually(lambda: file.stat().st_blocks * 512 <= MIB, what="the cap")
    copy = capped.layout.shared / "task_outputs" / f"{task}.out"
    eventually(lambda: copy.exists() and copy.stat().st_size == file.stat().st_size, what="the copy")
    assert capped.logs(task, tail=2).data == b"600000\nthe end\n"


def test_copies_never_touch_another_clusters_files(shared_runner: Runner) -> None:
    shared = shared_runner.layout.shared
    task = shared_runner.next_task
    theirs = shared / "task_outputs" / f"{task}.out"
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("precious")
    assert shared_runner.submit("sh", "-c", "echo ours; echo oops >&2") == task
    shared_runner.host.end(task)
    ours = shared / "task_errors" / f"{task}.err"
    eventually(lambda: ours.exists() and ours.read_text() == "oops\n", what="the copy of stderr")
    assert theirs.read_text() == "precious"
    assert (shared / "task_errors" / f".hakuriver-{CLUSTER[:8]}" / f"{task}.err").exists()
    spec = shared_runner.spec("echo", "second", attempt=2, task=task)
    shared_runner.put(spec)
    second = shared / "task_outputs" / f"{task}.2.out"
    eventually(lambda: second.exists() and second.read_text() == "second\n", what="the second attempt's copy")


@needs_root
def test_a_full_disk_refuses_orders_and_loses_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", state], check=True)
    host = Host()
    runner = Runner(state, host)
    try:
        runner.start()
        gate = tmp_path / "gate"
        task = runner.submit("sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done; exit 6")
        host.state(task, "running")
        ballast = state / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        with pytest.raises(StorageFull):
            while True:
                runner.put(runner.spec("true", env={"FILL": "x" * 100_000}))
        gate.touch()
        status = runner.folder(task) / "status"
        eventually(lambda: b'"phase":"final"' in status.read_bytes(), what="the status on a full disk")
        refused = runner.spec("true", env={"FILL": "x" * 100_000})
        with pytest.raises(StorageFull):
            runner.put(refused)
        ballast.unlink()
        assert host.end(task)["exit_code"] == 6
        assert runner.put(refused)["accepted"] is True, "nothing of it was stored before"
        assert host.end(refused.task)["state"] == "completed"
    finally:
        runner.close()
        host.close()
        subprocess.run(["umount", "-l", state], check=True)


def test_two_hundred_short_tasks_at_once(shared_runner: Runner) -> None:
    specs = [shared_runner.spec("sh", "-c", f"echo {number}") for number in range(200)]
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert all(answer["accepted"] for answer in pool.map(shared_runner.put, specs))
    for spec in specs:
        assert shared_runner.host.end(spec.task, timeout=60)["state"] == "completed"
    seconds = time.monotonic() - started
    print(f"200 tasks in {seconds:.2f} s, {seconds * 5:.1f} ms each")
    for number, spec in enumerate(specs):
        assert shared_runner.logs(spec.task).data == f"{number}\n".encode()


@needs_root
def test_a_hung_shared_folder_stops_nothing_else(tmp_path: Path) -> None:
    image, shared = tmp_path / "image", tmp_path / "shared"
    image.write_bytes(b"")
    os.truncate(image, 16 * MIB)
    shared.mkdir()
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, shared], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no loop mounts here")
    host = Host()
    runner = Runner(tmp_path / "state", host, flags={"paths.shared_dir": str(shared)}).start()
    try:
        assert runner.run("true")["state"] == "completed"
        subprocess.run(["fsfreeze", "--freeze", shared], check=True)
        try:
            task = runner.submit("echo", "hello")
            assert host.end(task)["state"] == "completed"
            count = len(host.heartbeats)
            host.wait(lambda: len(host.heartbeats) > count + 10, what="heartbeats")
            assert runner.logs(task).data == b"hello\n"
            assert not (shared / "task_outputs" / f"{task}.out").exists()
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", shared], check=True)
        copy = shared / "task_outputs" / f"{task}.out"
        eventually(lambda: copy.exists() and copy.read_bytes() == b"hello\n", what="the copy")
    finally:
        runner.close()
        host.close()
        subprocess.run(["umount", "-l", shared], check=True)
