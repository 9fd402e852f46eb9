"""Forgetting: ended tasks that are too old or too many, a few at a time, and never by a clock that jumped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, select, union_all

from daemons.common.log import Log
from daemons.host import clock
from daemons.host.logs import Logs
from daemons.host.schema import attempt, idempotency, task
from daemons.host.store import Store, Tx
from hakuriver.config import Retention as Limits
from hakuriver.errors import StorageFull, Unreachable
from hakuriver.lifecycle import ENDED

IDEMPOTENCY_DAYS = 30
JUMP_SECONDS = 3600.0
DISTRUST_SECONDS = 86_400.0
"""How long nothing is forgotten after the wall clock jumped."""
_FIRST_SECONDS = 600.0
"""A machine that has just booted may not have been told the time yet."""
_EACH_SECONDS = 3600.0
_AT_ONCE = 100  # tasks in one transaction
_PAUSE_SECONDS = 0.02
_FOUND = 10_000  # ids in one read
_ENDED = [str(state) for state in ENDED]
log = Log("retention")


def wall() -> datetime:
    """This moment, by the clock that people set."""
    return datetime.now(UTC)


class Retention:
    """Deletes what ``limits`` don't keep, with the shared copies of its logs."""

    def __init__(
        self,
        store: Store,
        logs: Logs,
        limits: Limits,
        *,
        wall: Callable[[], datetime] = wall,
        boottime: Callable[[], float] = clock.boottime,
    ) -> None:
        self._store = store
        self._logs = logs
        self._limits = limits
        self._wall = wall
        self._boottime = boottime
        self._offset = wall().timestamp() - boottime()
        self._trusted_from = boottime()

    async def run(self) -> None:
        """Loop: a pass every hour."""
        pause = _FIRST_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = _EACH_SECONDS
            try:
                await self.once()
            except (StorageFull, Unreachable) as error:
                log.warning("pruning_postponed", error=error.message)

    async def once(self) -> int:
        """One pass; how many tasks are gone. Raises StorageFull, or Unreachable for a dead shared folder."""
        if not self._steady():
            return 0
        now = self._wall()
        stale = clock.text(now - timedelta(days=IDEMPOTENCY_DAYS))
        await self._store.write(lambda tx: _forget_answers(tx, stale))
        old = clock.text(now - timedelta(days=self._limits.task_days))
        gone = 0
        while found := await self._store.read(lambda connection: _over(connection, old, self._limits)):
            before = gone
            for start in range(0, len(found), _AT_ONCE):
                gone += await self._forget(found[start : start + _AT_ONCE])
                await asyncio.sleep(_PAUSE_SECONDS)
            if gone == before:
                break
        if gone:
            log.info("tasks_pruned", tasks=gone)
        return gone

    async def _forget(self, chunk: Sequence[int]) -> int:
        """Copies first: a crash in between leaves a task that the next pass finds again."""
        await self._logs.remove(await self._store.read(lambda connection: _attempts(connection, chunk)))
        return await self._store.write(lambda tx: _delete(tx, chunk))

    def _steady(self) -> bool:
        """Whether the wall clock can be believed: it must not have jumped against the other for a while."""
        now = self._boottime()
        offset = self._wall().timestamp() - now
        if abs(offset - self._offset) > JUMP_SECONDS:
            log.warning("clock_jumped", seconds=round(offset - self._offset), pruning="paused for a day")
            self._offset = offset
            self._trusted_from = now + DISTRUST_SECONDS
        return now >= self._trusted_from


def _over(connection: Connection, old: str, limits: Limits) -> list[int]:
    """The oldest ended tasks that are not kept: those that ended before ``old``, and those too many."""
    ended = task.c.state.in_(_ENDED)
    aged = (
        select(task.c.id)
        .join(attempt, (attempt.c.task == task.c.id) & (attempt.c.number == task.c.attempt))
        .where(ended, attempt.c.ended_at < old)
    )
    surplus = (
        select(task.c.id).where(ended).order_by(task.c.id.desc()).limit(-1).offset(limits.task_count)
    ).subquery()
    every = union_all(aged, select(surplus.c.id)).subquery()
    chosen = select(every.c.id).distinct().order_by(every.c.id).limit(_FOUND)
    return list(connection.execute(chosen).scalars())


def _attempts(connection: Connection, ids: Sequence[int]) -> list[tuple[int, int]]:
    rows = connection.execute(
        select(attempt.c.task, attempt.c.number)
        .join(task, task.c.id == attempt.c.task)
        .where(task.c.id.in_(ids), task.c.state.in_(_ENDED))
    )
    return [(row.task, row.number) for row in rows]


def _delete(tx: Tx, ids: Sequence[int]) -> int:
    """Delete those that have ended, with all that belongs to them, and say so."""
    gone = list(tx.execute(select(task.c.id).where(task.c.id.in_(ids), task.c.state.in_(_ENDED))).scalars())
    tx.execute(delete(task).where(task.c.id.in_(gone)))
    tx.publish_gone(gone)
    return len(gone)


def _forget_answers(tx: Tx, before: str) -> None:
    tx.execute(delete(idempotency).where(idempotency.c.created_at < before))
