"""Forgetting: ended tasks that are too old or too many, a few at a time, and never by a clock that jumped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import astuple
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, func, select, union_all
from sqlalchemy.dialects.sqlite import insert

from daemons.common.log import Log
from daemons.common.timeofday import Clock, look
from daemons.host import clock
from daemons.host.logs import Logs
from daemons.host.schema import attempt, idempotency, meta, task
from daemons.host.store import Store, Tx
from hakuriver.config import Retention as Limits
from hakuriver.errors import StorageFull, Unreachable
from hakuriver.lifecycle import ENDED

IDEMPOTENCY_DAYS = 30
_FIRST_SECONDS = 600.0
"""A machine that has just booted may not have been told the time yet."""
_EACH_SECONDS = 3600.0
_AT_ONCE = 100  # tasks in one transaction
_PAUSE_SECONDS = 0.02
_FOUND = 10_000  # ids in one read
_CLOCK = "clock"
"""Key of the time of day as it is believed, in the meta table: a restart believes no other one."""
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
        boot_id: Callable[[], str] = clock.boot_id,
    ) -> None:
        self._store = store
        self._logs = logs
        self._limits = limits
        self._wall = wall
        self._boottime = boottime
        self._boot_id = boot_id()

    async def run(self) -> None:
        """Loop: a pass every hour."""
        step: Callable[[], Awaitable[object]] = self._look  # what it says at the start counts
        pause = _FIRST_SECONDS
        while True:
            try:
                await step()
            except (StorageFull, Unreachable) as error:
                log.warning("pruning_postponed", error=error.message)
            await asyncio.sleep(pause)
            step, pause = self.once, _EACH_SECONDS

    async def _look(self) -> bool:
        return await self._clock_is_believed(self._wall())

    async def once(self) -> int:
        """One pass; how many tasks are gone. Raises StorageFull, or Unreachable for a dead shared folder."""
        now = self._wall()
        if not await self._clock_is_believed(now):
            return 0
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

    async def _clock_is_believed(self, wall: datetime) -> bool:
        """Whether the wall clock has not jumped against the other, or long ago. Raises StorageFull."""
        text = await self._store.read(_clock)
        known = Clock(*json.loads(text)) if text else None
        now = look(known, self._boot_id, wall.timestamp(), self._boottime())
        if now != known:
            await self._store.write(lambda tx: _keep_clock(tx, json.dumps(astuple(now))))
        if now.doubted_since is not None:
            log.warning("pruning_pauses", reason="the clock of this machine jumped by more than an hour")
        return now.doubted_since is None


def _clock(connection: Connection) -> str | None:
    return connection.execute(select(meta.c.value).where(meta.c.key == _CLOCK)).scalar()


def _keep_clock(tx: Tx, text: str) -> None:
    row = {"key": _CLOCK, "value": text}
    tx.execute(insert(meta).values(row).on_conflict_do_update(index_elements=["key"], set_=row))


def _over(connection: Connection, old: str, limits: Limits) -> list[int]:
    """The oldest ended tasks that are not kept: those of whose end we heard before ``old`` (the clock of a
    node may be years behind), and those too many."""
    ended = task.c.state.in_(_ENDED)
    aged = (
        select(task.c.id)
        .join(attempt, (attempt.c.task == task.c.id) & (attempt.c.number == task.c.attempt))
        .where(ended, func.coalesce(attempt.c.told_at, attempt.c.ended_at) < old)
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
