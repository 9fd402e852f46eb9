"""What becomes of containers when their engine is stopped, killed or replaced behind our back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemons.runner.executors.engine import STOPPING
from daemons.runner.model import End, judge
from hakuriver.lifecycle import State
from tests import images
from tests.runner.engines import OwnEngine
from tests.runner.peer import Host, Runner, eventually
from tests.runner.test_docker import box, name
from tests.runner.test_survival import journal_says_other_boot

pytestmark = pytest.mark.docker


@contextmanager
def lab(folder: Path, *flags: str) -> Iterator[tuple[OwnEngine, Runner]]:
    """An engine that can be stopped, with a runner of its own."""
    if os.geteuid() != 0:
        pytest.skip("an engine needs root")
    engine, host = OwnEngine(*flags), Host()
    runner = Runner(folder / "state", host, environ={"DOCKER_HOST": engine.url})
    try:
        images.busybox(engine.start().client)
        yield engine, runner.start()
    finally:
        runner.close()
        host.close()
        engine.wipe()


def away(runner: Runner) -> None:
    runner.host.wait(
        lambda: "docker" in runner.host.registrations[-1]["facts"]["unavailable"], what="its absence"
    )
    assert runner.host.registrations[-1]["facts"]["away"] == ["docker"], "tasks wait for one that was there"


def test_an_engine_without_live_restore_ends_its_containers_and_gets_the_blame(tmp_path: Path) -> None:
    with lab(tmp_path) as (engine, runner):
        polite = box(runner, "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done")
        at_second = (
            "trap 'echo term; n=1$n; [ $n -lt 11 ] || exit 4' TERM; echo ready; while :; do sleep 0.05; done"
        )
        killed = box(runner, "sh", "-c", f"{at_second}; echo ready; while :; do sleep 0.05; done")
        before = box(runner, "sh", "-c", "exit 0")
        for each in (polite, killed):
            eventually(lambda each=each: runner.logs(each).data)  # type: ignore[misc]
        assert runner.host.end(before)["state"] == "completed"
        runner.intend(killed, "kill", grace=600)
        eventually(lambda: b"term" in runner.logs(killed).data)
        engine.stop()
        away(runner)
        engine.start()
        end = runner.host.end(polite)
        assert (end["state"], end["exit_code"]) == ("failed", 0)
        assert end["reason"].startswith("engine_stopped")
        end = runner.host.end(killed)
        assert (end["state"], end["exit_code"]) == ("killed", 4)
        after = box(runner, "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
        eventually(lambda: runner.logs(after).data)
        runner.host.state(after, "running")
        runner.signal(after, signal.SIGTERM)
        since = time.monotonic()
        assert (runner.host.end(after)["exit_code"], runner.host.end(after)["reason"]) == (3, "exit code 3")
        assert time.monotonic() - since < STOPPING / 2  # our own signal casts no doubt on the engine


def test_a_killed_engine_without_live_restore_is_blamed_too(tmp_path: Path) -> None:
    with lab(tmp_path) as (engine, runner):
        task = box(runner, "sh", "-c", "echo ready; exec sleep 1000")
        eventually(lambda: runner.logs(task).data)
        runner.host.state(task, "running")
        engine.stop(signal.SIGKILL)
        away(runner)
        engine.start()
        end = runner.host.end(task)
        assert end["state"] == "failed"
        assert end["exit_code"] != 0
        assert end["reason"].startswith("engine_stopped")


def test_with_live_restore_a_task_survives_and_its_end_is_its_own(tmp_path: Path) -> None:
    with lab(tmp_path, "--live-restore") as (engine, runner):
        script = "echo ready; until [ -e /shared/{0} ]; do sleep 0.05; done; echo through; exit {1}"
        inside = box(runner, "sh", "-c", script.format("a", 0))
        later = box(runner, "sh", "-c", script.format("b", 5))
        for each in (inside, later):
            runner.host.state(each, "running")
        engine.stop(signal.SIGKILL)
        away(runner)
        (runner.layout.shared / "a").touch()
        eventually(lambda: b"through" in runner.logs(inside).data)
        engine.start()
        assert runner.host.end(inside)["state"] == "completed"
        assert not any(r["state"] == "failed" for r in runner.host.of(later))
        (runner.layout.shared / "b").touch()
        end = runner.host.end(later)
        assert (end["exit_code"], end["reason"]) == (5, "exit code 5")
        assert runner.whole_log(later) == b"ready\nthrough\n"


def test_gone_containers_gone_images_and_an_engine_that_comes_late(tmp_path: Path) -> None:
    with lab(tmp_path) as (engine, runner):
        host = runner.host
        gone = box(runner, "sleep", "1000")
        host.state(gone, "running")
        runner.crash()
        engine.client.containers.get(name(gone)).remove(force=True)
        engine.stop()
        runner.start()
        assert host.registrations[-1]["facts"]["unavailable"]["docker"] == "no Docker engine runs here"
        late = box(runner, "sh", "-c", "exit 4")
        assert host.state(late, "preparing")["reason"] == "no Docker engine runs here"
        engine.start()
        end = host.end(gone)
        assert (end["state"], end["exit_code"]) == ("lost", None)
        assert end["reason"] == "its container is gone"
        assert host.end(late)["exit_code"] == 4
        eventually(lambda: not engine.client.api.containers(all=True), what="clean containers")
        engine.client.images.remove(images.BUSYBOX)
        end = host.end(box(runner, "true"))
        assert end["state"] == "failed"
        assert f"image {images.BUSYBOX} is not on node n1" in end["error"]


def test_another_boot_means_lost_for_containers_too(tmp_path: Path) -> None:
    with lab(tmp_path) as (engine, runner):
        task = box(runner, "sleep", "1000")
        runner.host.state(task, "running")
        runner.crash()
        engine.client.containers.get(name(task)).kill()
        journal_says_other_boot(runner)
        runner.start()
        end = runner.host.end(task)
        assert end["state"] == "lost"
        assert end["reason"].startswith("node_rebooted")


def test_a_stop_of_the_engine_never_counts_as_completed() -> None:
    end = End(exit_code=0, ended_at=datetime.now(UTC), cut="engine_stopped: it was stopped")
    assert judge(end, None, 0).state is State.FAILED


def test_a_pause_that_the_engine_refuses_is_visible_and_tried_again(tmp_path: Path) -> None:
    mended, runtime = tmp_path / "mended", tmp_path / "runtime"
    runtime.write_text(
        "#!/bin/sh\n"
        f"if [ ! -e {mended} ]; then\n"
        '  for word; do [ "$word" != pause ] || { echo "the freezer is broken" >&2; exit 1; }; done\n'
        'fi\nexec runc "$@"\n'
    )
    runtime.chmod(0o755)
    with lab(tmp_path, "--add-runtime", f"stiff={runtime}", "--default-runtime", "stiff") as (_, runner):
        task = box(runner, "sleep", "60")
        runner.host.state(task, "running")
        runner.intend(task, "pause", 1)
        refused = runner.host.wait(lambda: next((r for r in runner.host.of(task) if r["reason"]), None))
        assert refused["state"] == "running"
        assert refused["reason"].startswith("the engine can't pause it: ")
        assert refused["reason"].endswith("; trying again")
        mended.touch()
        assert runner.host.state(task, "paused")["reason"] == ""
        runner.kill(task, 2, grace=0)
