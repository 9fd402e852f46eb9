"""What a runner remembers of old attempts, and what a later life of its host hears again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.common.timeofday import DAY, HOUR, Clock, look
from daemons.runner.migrations import MIGRATIONS
from hakuriver.errors import Conflict, NotFound
from tests.runner.peer import Runner, eventually


def rows(runner: Runner, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(runner.layout.journal)) as db:
        return db.execute(query).fetchall()


def settled(runner: Runner, *tasks: int) -> None:
    """Wait until nothing is left to be done about attempts that ended."""
    query = "SELECT task FROM attempt WHERE acknowledged AND copied AND cleaned"
    eventually(lambda: set(tasks) <= {row[0] for row in rows(runner, query)}, what="settling")


def test_a_new_life_of_the_host_hears_every_end_again(runner: Runner) -> None:
    host = runner.host
    ends = [runner.run("sh", "-c", f"exit {code}") for code in (0, 7)]
    settled(runner, *(end["task"] for end in ends))
    assert rows(runner, "SELECT count(*) FROM outbox") == [(0,)]
    assert host.registrations[-1]["high_water"] == 0
    runner.crash()
    runner.start()
    before = host.deliveries
    assert host.registrations[-1]["high_water"] == 2
    assert runner.run("true")["state"] == "completed"
    assert host.deliveries == before + 2  # of the same life it hears nothing twice
    with host.changed:
        host.epoch = 2
        host.reports.clear()  # a restored host knows less than it did
        host.forgiving = True
    for end in ends:
        again = host.end(end["task"])
        assert (again["sequence"], again["exit_code"]) == (end["sequence"], end["exit_code"])
    settled(runner, 1, 2, 3)


def test_refused_reports_jam_nothing_and_can_be_inspected(runner: Runner) -> None:
    runner.host.refusing.add(runner.next_task)
    task = runner.submit("sh", "-c", "exit 3")
    assert runner.run("true")["state"] == "completed"
    settled(runner, task)
    letters = rows(runner, "SELECT task, sequence, message, report FROM dead_letter ORDER BY id")
    assert [letter[:3] for letter in letters] == [(task, n, "its task moved on") for n in (1, 2)]
    assert '"exit_code":3' in letters[-1][3]


def test_old_folders_go_and_a_late_order_starts_nothing(runner: Runner, tmp_path: Path) -> None:
    spec = runner.spec("sh", "-c", f"echo x >>{tmp_path}/runs")
    runner.put(spec)
    runner.host.end(spec.task)
    newest = runner.run("true")["task"]
    living = runner.submit("sleep", "1000")
    runner.host.state(living, "running")
    settled(runner, spec.task, newest)
    runner.stop()
    runner.flags["retention.attempt_count"] = 1
    runner.start()
    eventually(lambda: rows(runner, "SELECT task FROM forgotten") == [(spec.task,)], what="forgetting")
    assert not runner.folder(spec.task).exists()
    assert runner.folder(newest).exists()
    assert runner.pids(living)
    with pytest.raises(Conflict, match="ended here long ago"):
        runner.put(spec)
    with pytest.raises(Conflict, match="another content"):
        runner.put(spec.model_copy(update={"command": ["true"]}))
    with pytest.raises(NotFound):
        runner.logs(spec.task)
    assert (tmp_path / "runs").read_text() == "x\n"
    assert runner.host.registrations[-1]["high_water"] == living


def test_what_is_not_acknowledged_stays(runner: Runner) -> None:
    runner.flags["retention.attempt_days"] = 0.0
    runner.host.down = True
    task = runner.submit("true")
    eventually(lambda: runner.logs(task, wait=5).ended)
    runner.crash()
    runner.launch()
    runner.host.down = False
    assert runner.host.end(task)["state"] == "completed"
    settled(runner, task)
    assert runner.folder(task).exists()
    runner.crash()
    runner.start()
    eventually(lambda: not runner.folder(task).exists(), what="its end")


def test_a_clock_that_jumped_stops_pruning(runner: Runner) -> None:
    task = runner.run("true")["task"]
    settled(runner, task)
    eventually(lambda: rows(runner, "SELECT value FROM meta WHERE key = 'clock'") != [("",)])
    runner.stop()
    with closing(sqlite3.connect(runner.layout.journal)) as db, db:
        text = "json_set(value, '$[1]', json_extract(value, '$[1]') - 7200)"
        db.execute(f"UPDATE meta SET value = {text} WHERE key = 'clock'")
    runner.flags["retention.attempt_days"] = 0.0
    runner.start()
    eventually(lambda: "pruning_pauses" in runner.log, what="a word about it")
    assert runner.folder(task).exists()


@given(st.floats(-DAY, DAY), st.floats(0, 2 * DAY))
def test_a_jump_is_believed_after_a_day_and_not_earlier(jump: float, passed: float) -> None:
    first = look(None, "boot", 1e9, 1000)
    jumped = look(first, "boot", 1e9 + jump, 1000)
    assert (jumped.doubted_since is not None) == (abs(1e9 + jump - 1000 - first.offset) > HOUR)
    later = look(jumped, "boot", 1e9 + jump + passed, 1000 + passed)
    if jumped.doubted_since is not None:
        assert (later.doubted_since is None) == (1000 + passed - 1000 >= DAY)
    assert look(jumped, "boot", 1e9, 1000).doubted_since is None  # it was set right
    assert look(jumped, "next boot", 5.0, 1.0) == Clock("next boot", 4.0)


def test_a_journal_of_the_first_version_is_carried_over(tmp_path: Path, runner: Runner) -> None:
    runner.stop()
    path = runner.layout.journal
    identity = rows(runner, "SELECT value FROM meta WHERE key = 'runner'")[0][0]
    for each in path.parent.glob("journal.db*"):
        each.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(MIGRATIONS[0])
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO meta VALUES ('runner', ?)", (identity,))
        spec = runner.spec("true", task=41)
        columns = "task, attempt, digest, cluster, spec, phase, state, sequence, final, acknowledged"
        values = (41, 1, spec.digest(), "c", spec.model_dump_json(), "ended", "completed", 2, 2, 1)
        db.execute(f"INSERT INTO attempt ({columns}) VALUES ({','.join('?' * 10)})", values)
        db.commit()
    runner.start()
    assert runner.host.registrations[-1]["high_water"] == 41
    assert rows(runner, "SELECT ended > 1e9, last_report FROM attempt") == [(1, None)]
