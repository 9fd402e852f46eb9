"""What an end sets going: another try of the task itself, the start or the end of tasks that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from daemons.common.log import Log
from daemons.host import clock
from daemons.host.ledger import Queue
from daemons.host.rows import TaskRow
from daemons.host.schema import attempt, task, task_after
from daemons.host.store import Store, Tx
from daemons.host.submit import first_attempt
from hakuriver.errors import StorageFull
from hakuriver.lifecycle import ENDED, Intent, State

RETRIED = (State.FAILED, State.KILLED_OOM, State.TIMED_OUT, State.LOST)
"""Ends after which a task with ``--retries`` is tried again."""
NODE_LOST = ("fenced", "node_rebooted")
"""How reasons of a loss begin that is the node's, and not the task's own."""
_ENDED = [str(state) for state in ENDED]
_CHUNK = 500
_RETRY = 1.0
log = Log("followups")


def follow(tx: Tx, tasks: Sequence[int]) -> None:
    """What is due to those of some tasks that ended badly, by their node's own word: what was lost goes on as
    ``--on-node-loss`` says, and what has retries left is tried again, unless its end was asked for. To be
    called before the ends are announced."""
    for start in range(0, len(tasks), _CHUNK):
        chosen = (
            select(task.c.id, task.c.attempt, task.c.state, task.c.retried, task.c.retries)
            .add_columns(task.c.on_node_loss, attempt.c.node, attempt.c.reason)
            .add_columns(attempt.c.held_due_at, attempt.c.held_by, attempt.c.held_grace)
            .add_columns(attempt.c.intent, attempt.c.intent_by)
            .join(attempt, (attempt.c.task == task.c.id) & (attempt.c.number == task.c.attempt))
            .where(
                task.c.id.in_(tasks[start : start + _CHUNK]),
                task.c.state.in_([str(state) for state in RETRIED]),
            )
        )
        for row in tx.execute(chosen).all():
            _follow(tx, row)


def _follow(tx: Tx, row: Any) -> None:
    node_lost = row.state == State.LOST and row.reason.startswith(NODE_LOST)
    if row.intent == Intent.KILL:
        if node_lost and row.on_node_loss != "keep":  # the end that was asked for is reached with that
            _end(tx, row.id, row.attempt, State.KILLED, f"killed by {row.intent_by}; {row.reason}")
    elif node_lost and row.on_node_loss == "requeue":
        _again(tx, row, f"lost on {row.node}: {row.reason}", row.retried)
    elif row.retried < row.retries:
        why = f"attempt {row.attempt}: {row.reason}; retry {row.retried + 1} of {row.retries}"
        _again(tx, row, why, row.retried + 1)
    elif node_lost and row.on_node_loss == "fail":
        _end(tx, row.id, row.attempt, State.FAILED, f"lost on {row.node}: {row.reason}")


def _again(tx: Tx, row: Any, why: str, retried: int) -> None:
    held = {name: getattr(row, name) for name in ("held_due_at", "held_by", "held_grace")}
    tx.execute(insert(attempt).values(**first_attempt(row.id, row.attempt + 1, why), **held))
    tx.execute(
        update(task)
        .where(task.c.id == row.id)
        .values(attempt=row.attempt + 1, state=str(State.PENDING), retried=retried)
    )
    log.info("tried_again", task=row.id, attempt=row.attempt + 1, why=row.reason)


class Dependencies:
    """Told of every committed task (``consider``); settles what waited for those that have ended."""

    def __init__(self, store: Store, queue: Queue) -> None:
        self._store = store
        self._queue = queue
        self._ended: set[int] = set()
        self._changed = asyncio.Event()

    async def load(self) -> None:
        """Find what ended and wasn't settled before the host was stopped."""
        self._ended |= await self._store.read(_unsettled)
        self._changed.set()

    def consider(self, row: TaskRow) -> None:
        """A task changed: is it an end that somebody waits for?"""
        if row.state in _ENDED and self._queue.needy:
            self._ended.add(row.id)
            self._changed.set()

    async def run(self) -> None:
        """Loop: as soon as something ended."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            ended = sorted(self._ended)
            try:
                if ended:
                    await self._store.write(lambda tx, ended=ended: settle(tx, ended))  # type: ignore[misc]
                self._ended.difference_update(ended)
            except StorageFull as error:
                log.warning("settling_postponed", error=error.message)
                await asyncio.sleep(_RETRY)
                self._changed.set()


def _unsettled(connection: Connection) -> set[int]:
    chosen = select(task_after.c.needs).join(task, task.c.id == task_after.c.needs)
    return set(connection.execute(chosen.where(task.c.state.in_(_ENDED))).scalars())


def settle(tx: Tx, ended: Sequence[int]) -> None:
    """What waited for tasks that have ended: goes on where those completed, has failed where not."""
    changed: set[int] = set()
    for start in range(0, len(ended), _CHUNK):
        rows = tx.execute(
            select(task_after.c.task, task_after.c.needs, task.c.state)
            .join(task, task.c.id == task_after.c.needs)
            .where(task_after.c.needs.in_(ended[start : start + _CHUNK]), task.c.state.in_(_ENDED))
        ).all()
        for row in rows:
            if row.state != State.COMPLETED:
                _fail(tx, row.task, f"task {row.needs} ended as {row.state}, and this was to start after it")
            changed.add(row.task)
        tx.execute(delete(task_after).where(task_after.c.needs.in_({row.needs for row in rows})))
    tx.publish_tasks(sorted(changed))


def _fail(tx: Tx, number: int, reason: str) -> None:
    waiting = (task.c.id == number) & (task.c.state == str(State.PENDING))
    row = tx.execute(select(task.c.attempt).where(waiting)).first()
    if row is not None:
        _end(tx, number, row.attempt, State.FAILED, reason)


def _end(tx: Tx, number: int, attempt_number: int, state: State, reason: str) -> None:
    tx.execute(
        update(attempt)
        .where(attempt.c.task == number, attempt.c.number == attempt_number)
        .values(state=str(state), reason=reason, ended_at=clock.now(), held_due_at=None)
    )
    tx.execute(update(task).where(task.c.id == number).values(state=str(state)))
