"""The queue and the holdings in memory: the same as what the store says, after any changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemons.host.ledger import Ledger
from daemons.host.rows import TaskRow
from daemons.host.scheduling.model import QUEUED
from hakuriver.lifecycle import ENDED, ON_NODE, State

STATES = st.sampled_from((State.PENDING, State.ASSIGNED, State.RUNNING, State.COMPLETED))


def row(task: int, state: State, attempt: int = 1, cores: int = 1000, memory: int = 0) -> TaskRow:
    return TaskRow(
        id=task,
        attempt=attempt,
        state=str(state),
        owner=f"u{task % 2}",
        executor="process",
        cores=cores,
        memory=memory,
        target_node=None,
        target_numa=None,
        target_gpus="[]",
        wants="{}",
        priority=0,
        batch=task,
        max_running=None,
        time_limit=None,
        needs=0,
        reason=QUEUED,
        node="n1" if state in ON_NODE or state in ENDED else None,
        acked=5,
        intent="run",
        intent_version=0,
        intent_sent=0,
        held_due_at=None,
        hold_by=None,
        assigned_at=None,
        started_at=None,
        devices=f'["GPU-{task}"]',
        numa=None,
        view="",
    )


@given(st.lists(st.tuples(st.integers(1, 6), STATES, st.integers(0, 2)), max_size=40))
def test_memory_says_what_the_last_changes_say(changes: list[tuple[int, State, int]]) -> None:
    ledger = Ledger()
    now: dict[int, TaskRow] = {}
    for task, state, cores in changes:
        given_cores = now[task].cores if task in now else cores * 1000
        now[task] = row(task, state, cores=given_cores, memory=task)
        ledger.apply(now[task])
    waiting = {task for task, each in now.items() if each.state == State.PENDING}
    held = {task: each for task, each in now.items() if each.state in ON_NODE}
    lanes = [list(lane) for lane in ledger.queue.lanes.values()]
    assert sorted(task for lane in lanes for task in lane) == sorted(waiting)
    assert all(lane == sorted(lane) and lane for lane in lanes)
    assert ledger.queue.owners.total() == len(ledger.queue) == len(waiting)
    used = ledger.used("n1")
    assert used.cores == sum(each.cores for each in held.values())
    assert used.memory == sum(each.memory for each in held.values())
    assert used.devices == {f"GPU-{task}": task for task in held}
    assert used.tasks == dict.fromkeys(held, 1)
    assert set(ledger.acked) == {(task, 1) for task in held}
    assert ledger.held == len(held)
    assert sum(use.tasks for use in ledger.owners.values()) == len(held)
    assert sum(use.cores for use in ledger.owners.values()) == used.cores


def test_a_task_that_comes_back_stands_in_its_old_place() -> None:
    ledger = Ledger()
    for task in (2, 4, 6):
        ledger.apply(row(task, State.PENDING))
    assert ledger.apply(row(2, State.ASSIGNED)).placeable is False
    effect = ledger.apply(row(2, State.PENDING, 2))
    assert effect.came_back
    (lane,) = ledger.queue.lanes.values()
    assert list(lane) == [2, 4, 6]
    ledger.queue.rest(2)
    assert list(lane) == [4, 6]
    ledger.queue.rest(4)
    ledger.queue.rested(4)
    ledger.queue.rest(4)
    assert [list(each) for each in ledger.queue.lanes.values()] == [[6]]
    ledger.queue.rested(4)
    assert not ledger.queue.takes_part(2)
    ledger.queue.rested(2)
    (lane,) = ledger.queue.lanes.values()
    assert list(lane) == [2, 4, 6]
    ledger.queue.rest(4)
    assert ledger.queue.remove(4)
    ledger.queue.rested(4)
    assert 4 not in ledger.queue
