"""After a restore: what waits in the backup may have run since, so it waits until all nodes have told.

A node has told when its journal is in the new epoch and a heartbeat lists nothing that the host doesn't know
by then. New tasks don't wait for that: nobody can have seen their ids.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from sqlalchemy import Connection, and_, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from daemons.common.log import Log
from daemons.common.threads import until
from daemons.host import clock
from daemons.host.dispatcher import Dispatcher
from daemons.host.ledger import Key, Ledger
from daemons.host.nodes import Nodes
from daemons.host.placing import Placing
from daemons.host.rows import TaskRow, load_facts
from daemons.host.schema import attempt, meta, task
from daemons.host.store import Store, Tx
from hakuriver.errors import StorageFull
from hakuriver.lifecycle import State
from hakuriver.nodewire import Heartbeat

KEY = "recovery"
_CHUNK = 500
_LOOK_SECONDS = 1.0
_BY_FORCE = "; `hakuriver task requeue --force` doesn't wait"
log = Log("recovery")


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is stored: the newest id that the backup knew, the nodes that have not told yet (None when nothing
    waits for them any more), and the tasks that an operator let go."""

    last: int
    awaited: tuple[str, ...] | None
    released: tuple[int, ...] = ()

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


def read(text: str | None) -> Waiting:
    """What ``Waiting.text`` made; a database that was never restored waits for nothing."""
    if text is None:
        return Waiting(0, None)
    found = json.loads(text)
    awaited = found["awaited"]
    return Waiting(found["last"], None if awaited is None else tuple(awaited), tuple(found["released"]))


def restored_last(tx: Tx) -> int:
    """The newest id that the backup knew; 0 when there was no restore."""
    return read(tx.execute(select(meta.c.value).where(meta.c.key == KEY)).scalar()).last


class Recovery:
    """Keeps back what may have run already (``keep_back``), until ``run`` lets it go."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        nodes: Nodes,
        placing: Placing,
        dispatcher: Dispatcher,
        *,
        patience: float,
        now: Callable[[], float] = clock.boottime,
    ) -> None:
        """``patience``: seconds from the start in which also nodes that the backup didn't know may speak."""
        self._store = store
        self._ledger = ledger
        self._nodes = nodes
        self._placing = placing
        self._dispatcher = dispatcher
        self._patience = patience
        self._now = now
        self._last = 0
        self._active = False
        self._released: set[int] = set()
        self._changed = asyncio.Event()
        self._said = ""
        self._saved = ""

    async def load(self) -> None:
        """Read what is stored; comes before anything is kept back."""
        found = read(
            await self._store.read(
                lambda connection: connection.execute(select(meta.c.value).where(meta.c.key == KEY)).scalar()
            )
        )
        self._last, self._released = found.last, set(found.released)
        self._active = found.awaited is not None
        self._nodes.untold.update(found.awaited or ())

    def keeps(self, number: int) -> bool:
        """Whether a task of the backup may have run unknown to us."""
        return self._active and number <= self._last and number not in self._released

    def keep_back(self, row: TaskRow) -> bool:
        """A task changed: whether it must not be placed or ordered now; then no pass sees it."""
        if not self.keeps(row.id):
            return False
        if row.state == State.PENDING:
            self._ledger.queue.rest(row.id)
            return True
        return row.acked is None

    async def registered(self, name: str) -> None:
        """A node introduced itself: it will tell what it has."""
        if self._active and name not in self._nodes.untold:
            self._nodes.untold.add(name)
            await self._save()

    async def heard(self, name: str, given: Heartbeat) -> None:
        """A heartbeat: has that node told all?"""
        if name not in self._nodes.untold or given.epoch != self._store.identity.epoch:
            return
        if not await self._store.read(lambda connection: _unsettled(connection, given.attempts, self._last)):
            self._nodes.untold.discard(name)
            log.info("node_has_told", node=name)
            self._changed.set()
            self._placing.wake()

    async def release(self, number: int) -> None:
        """An operator let a task go."""
        if self.keeps(number):
            self._released.add(number)
            await self._save()
            self._ledger.queue.rested(number)
            self._placing.wake()

    async def run(self) -> None:
        """Loop: says why things wait, and lets them go when all nodes have told."""
        begun = self._now()
        while self._active:
            self._changed.clear()
            try:
                await self._save()
                if not self._nodes.untold and self._now() - begun >= self._patience:
                    await self._let_go()
                    break
                await self._explain()
            except StorageFull as error:
                log.warning("recovery_postponed", error=error.message)
            await until(self._changed, _LOOK_SECONDS)
        await asyncio.Event().wait()

    async def _save(self) -> None:
        awaited = tuple(sorted(self._nodes.untold))
        text = Waiting(self._last, awaited, tuple(sorted(self._released))).text()
        if text != self._saved:
            await self._store.write(lambda tx: _put(tx, text))
            self._saved = text

    async def _explain(self) -> None:
        """The reason of all that waits; written where it is another."""
        names = sorted(self._nodes.untold)
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        who = f"{some} to come back" if names else "nodes to speak up"
        reason = f"waiting for {who} after the restore{_BY_FORCE}"
        if reason == self._said:
            return
        kept = await self._store.read(lambda connection: _kept(connection, self._last))
        ids = [number for number in kept if number not in self._released]
        for start in range(0, len(ids), _CHUNK):
            await self._store.write(partial(_say, ids=ids[start : start + _CHUNK], reason=reason))
        log.info("tasks_wait", tasks=len(ids), reason=reason)
        self._said = reason

    async def _let_go(self) -> None:
        """All nodes have told: the rest has never run. All that waits queues up anew, in its order."""
        text = Waiting(self._last, None).text()
        await self._store.write(lambda tx: _put(tx, text))
        self._active = False
        queue = self._ledger.queue
        rows = await self._store.read(lambda connection: load_facts(connection, _ORDERABLE))
        waiting = [row.id for row in rows if row.state == State.PENDING]
        for number in waiting:
            queue.rest(number)
        for number in waiting:
            queue.rested(number)
        for row in rows:
            self._dispatcher.consider(row)
        self._placing.wake()
        log.info("recovered", queued=len(waiting))


_ORDERABLE = [str(State.PENDING), str(State.ASSIGNED), str(State.STOPPING)]
_IS_KEPT = and_(
    task.c.attempt == attempt.c.number,
    or_(
        attempt.c.state == str(State.PENDING),
        and_(attempt.c.state == str(State.ASSIGNED), attempt.c.acked.is_(None)),
    ),
)


def _kept(connection: Connection, last: int) -> list[int]:
    chosen = select(task.c.id).join(attempt, attempt.c.task == task.c.id).where(_IS_KEPT, task.c.id <= last)
    return list(connection.execute(chosen.order_by(task.c.id)).scalars())


def _say(tx: Tx, ids: Sequence[int], reason: str) -> None:
    mine = select(task.c.attempt).where(task.c.id == attempt.c.task).scalar_subquery()
    chosen = attempt.c.task.in_(ids) & (attempt.c.number == mine) & (attempt.c.reason != reason)
    waits = attempt.c.state.in_([str(State.PENDING), str(State.ASSIGNED)])
    found = list(tx.execute(select(attempt.c.task).where(chosen, waits)).scalars())
    tx.execute(update(attempt).where(attempt.c.task.in_(found), chosen, waits).values(reason=reason))
    tx.publish_tasks(found)


def _unsettled(connection: Connection, keys: Sequence[Key], last: int) -> bool:
    """Whether a node lists an attempt that the database doesn't place there, of a task that it knows."""
    wanted = {key[0]: key[1] for key in sorted(keys) if 0 < key[0] <= last}
    ids = list(wanted)
    for start in range(0, len(ids), _CHUNK):
        rows = connection.execute(
            select(task.c.id, task.c.attempt, task.c.state).where(task.c.id.in_(ids[start : start + _CHUNK]))
        )
        for row in rows:
            number = wanted[row.id]
            if number > row.attempt or (number == row.attempt and row.state == State.PENDING):
                return True
    return False


def _put(tx: Tx, text: str) -> None:
    row = {"key": KEY, "value": text}
    tx.execute(insert(meta).values(row).on_conflict_do_update(index_elements=["key"], set_=row))
