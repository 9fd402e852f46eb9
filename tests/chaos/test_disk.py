"""Disks of 16 MB under database, journal, attempts and shared folder that fill up and are freed."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hakuriver import statedir
from hakuriver.errors import StorageFull
from hakuriver.paths import HEADER_IDEMPOTENCY, host_path
from tests.chaos.history import Job
from tests.chaos.lab import Lab, lab
from tests.chaos.work import broken, heard, reaches, settled, submit, task_of
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem: needs root")


@contextlib.contextmanager
def small(point: Path) -> Iterator[Path]:
    """A disk of 16 MB at ``point``; yields a file that can fill it."""
    point.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M,mode=0700", "tmpfs", str(point)], check=True)
    try:
        yield point / "hog"
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def fill(hog: Path) -> None:
    """Take every byte that is left."""
    with hog.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def sound(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_database(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    with small(folder / "host") as hog, lab(folder, seed=5, nodes=1) as made:
        long = Job(1, 4.0, 1, "exit 7")
        running = submit(made, long)
        reaches(made, running, "running")
        fill(hog)
        refused: tuple[dict[str, object], dict[str, str]] | None = None
        accepted = []
        for number in itertools.count():
            # the log has room left over for some: what is accepted is stored, what isn't leaves nothing
            body = {"command": ["true", "x" * 100_000], "cores": 0, "name": f"big-{number}"}
            key = {HEADER_IDEMPOTENCY: f"big-{number}"}
            try:
                made.client.request("POST", host_path("submit"), body=body, headers=key)
            except StorageFull as error:
                refused = (body, key)
                assert "nothing was stored" in error.hint
                break
            accepted.append(f"big-{number}")
            assert number < 1000, "the disk never gets full"
        names = {str(task["name"]) for task in made.tasks()}
        assert names == {"job-1", *accepted}, "reading goes on, and nothing was half stored"
        hog.unlink()
        assert refused is not None
        body, key = refused

        def again() -> bool:
            try:
                made.client.request("POST", host_path("submit"), body=body, headers=key)
            except StorageFull:
                return False
            return True

        until(again, "it heals when there is room")
        assert again(), "the same submit again is the same task"
        assert settled(made, {1: long}) == []
        assert sum(task["name"] == body["name"] for task in made.tasks()) == 1
        made.host.kill9()
        sound(made.layout("host").database)


@contextlib.contextmanager
def small_disks(layout: statedir.Layout, what: str) -> Iterator[Path]:
    """A small disk under all that a runner keeps, or under the journal or the attempts alone."""
    if what == "attempts":
        with small(layout.attempts) as hog:
            yield hog
    else:
        with small(layout.runner) as hog, contextlib.ExitStack() as stack:
            if what == "journal":
                stack.enter_context(small(layout.attempts))
            yield hog


@pytest.mark.parametrize("what", ["journal and attempts", "journal", "attempts"])
def test_the_runner(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "lab"
    layout = statedir.layout(folder / "n0")
    with small_disks(layout, what) as hog, lab(folder, seed=6, nodes=1) as made:
        end_on_a_full_disk(made, hog)
        made.runners[0].kill9()
        sound(layout.journal)


def end_on_a_full_disk(
    made: Lab, hog: Path, *, node: str = "n0", kind: str | None = None, first: int = 1
) -> None:
    """Two tasks end while what their runner keeps is full, others come late. ``first``: a nonce."""
    jobs = {nonce: Job(nonce, 1.5, 1, end) for nonce, end in enumerate(("exit 7", "kill -SEGV $$"), first)}
    before = made.journal.read_text().count("E ")
    ids = [submit(made, job, kind, node=node) for job in jobs.values()]
    for task in ids:
        reaches(made, task, "running")
    fill(hog)
    come = {nonce: Job(nonce, 0, 1, "exit 0") for nonce in range(first + 2, first + 8)}
    late = [submit(made, job, kind, node=node) for job in come.values()]
    full = time.monotonic()
    # the two end on the full disk: the place for their end was set aside before they started
    until(lambda: made.journal.read_text().count("E ") >= before + 2, "two tasks end on a full disk")
    until(lambda: time.monotonic() > full + 3, "some tries")
    heard(made, node)
    assert {task_of(made, task)["state"] for task in late} <= {"pending", "assigned", "preparing"}
    hog.unlink()
    assert broken(made, jobs | come) == []


def test_the_shared_folder(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    with small(folder / "shared") as hog, lab(folder, seed=13, nodes=1) as made:
        fill(hog)
        body = {"command": ["sh", "-c", "echo first; exit 7"], "cores": 0, "workdir": "/"}
        task = made.submit(1, body, time.monotonic() + 30)
        assert reaches(made, task, "completed", "failed", "lost")["exit_code"] == 7
        assert made.log(task, "stdout") == b"first\n"
        heard(made)
        copy = folder / "shared" / "task_outputs" / f"{task}.out"
        assert not copy.exists() or copy.read_bytes() == b""
        hog.unlink()
        until(lambda: copy.exists() and copy.read_bytes() == b"first\n", "the copy comes", seconds=30)
