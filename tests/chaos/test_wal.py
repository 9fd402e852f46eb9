"""The host's write-ahead log, cut anywhere: the database opens and holds a prefix of what was committed."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons.host.migrate import check
from hakuriver.paths import host_path
from tests.chaos.lab import Lab, lab

CUTS = 2000 if os.environ.get("CHAOS") == "long" else 200
TASKS = 60
FRAME = 4096 + 24
BACKFILL = 96  # where the index says how many frames are in the database already
Event = tuple[str, int]  # ("pending" or "killed", id)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Event], Lab]]:
    """A database as kill -9 left it, and what was committed into it, in order."""
    with lab(tmp_path_factory.mktemp("wal") / "lab", seed=4, nodes=0) as made:
        events = []
        for number in range(TASKS):
            task = made.submit(number, {"command": ["true"], "cores": 0}, time.monotonic() + 30)
            events.append(("pending", task))
            if number % 3 == 2:
                made.client.request("POST", host_path("kill", id=task - 1), body={})
                events.append(("killed", task - 1))
        made.host.kill9()
        yield made.layout("host").database, events, made


def _cut(database: Path, folder: Path, length: int) -> Path:
    """A copy of the database with the first ``length`` bytes of its log."""
    folder.mkdir(exist_ok=True)
    copy = folder / database.name
    shutil.copyfile(database, copy)
    log = Path(f"{database}-wal").read_bytes()[:length]
    Path(f"{copy}-wal").write_bytes(log)
    Path(f"{copy}-shm").unlink(missing_ok=True)
    return copy


def _least(database: Path) -> int:
    """Bytes of the log that the database needs: those frames were copied into it, perhaps not all at once."""
    index = Path(f"{database}-shm").read_bytes()
    (frames,) = struct.unpack_from("=I", index, BACKFILL)
    return 32 + int(frames) * FRAME


def _state(database: Path) -> dict[int, str]:
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        tasks = dict(connection.execute("SELECT id, state FROM task").fetchall())
        attempts = dict(connection.execute("SELECT task, state FROM attempt").fetchall())
        assert attempts == tasks, "a task and its attempt are written together"
        return tasks
    finally:
        connection.close()


def _prefixes(events: list[Event]) -> list[dict[int, str]]:
    states: list[dict[int, str]] = [{}]
    for state, task in events:
        states.append(states[-1] | {task: state})
    return states


def test_cut_anywhere(killed: tuple[Path, list[Event], Lab], tmp_path: Path) -> None:
    database, events, _ = killed
    whole, least = Path(f"{database}-wal").stat().st_size, _least(database)
    prefixes = _prefixes(events)
    source = random.Random(int(os.environ.get("SEED") or time.time()))
    reached = set()
    for length in [*(source.randint(least, whole) for _ in range(CUTS - 1)), whole]:
        copy = _cut(database, tmp_path / "cut", length)
        state = _state(copy)
        assert state in prefixes, f"cut at {length}"
        reached.add(len(state))
    assert _state(_cut(database, tmp_path / "cut", whole)) == prefixes[-1], "nothing committed is missing"
    assert len(reached) > TASKS / 2, "the cuts reach all of the history"


def test_a_host_goes_on_from_there(killed: tuple[Path, list[Event], Lab], tmp_path: Path) -> None:
    database, events, made = killed
    whole, least = Path(f"{database}-wal").stat().st_size, _least(database)
    copy = _cut(database, tmp_path / "cut", (whole + least) // 2)
    check(copy)
    before = _state(copy)
    assert before in _prefixes(events)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(copy, database)
    made.host.start()
    fresh = made.submit(TASKS, {"command": ["true"], "cores": 0}, time.monotonic() + 30)
    assert fresh == max(before) + 1
    after = {task["id"]: task["state"] for task in made.tasks()}
    assert after == before | {fresh: "pending"}
