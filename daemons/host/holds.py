"""Kills that can still be taken back, carried out in their time whatever was restarted meanwhile."""

from __future__ import annotations

import asyncio

from daemons.common.log import Log
from daemons.common.threads import until
from daemons.host import clock, intents
from daemons.host.rows import TaskRow
from daemons.host.store import Store
from hakuriver.errors import NotFound, StorageFull

_LONGEST = 60.0
"""A wall clock that was set back must not keep a kill from its time."""
_RETRY = 1.0
log = Log("holds")


class Holds:
    """Told of every committed task (``consider``); kills those whose hold is over."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._due: dict[int, tuple[str, float]] = {}  # task → what is stored, when on the loop's clock
        self._changed = asyncio.Event()

    def consider(self, row: TaskRow) -> None:
        """A task changed: is its kill held?"""
        if row.held_due_at is None:
            self._due.pop(row.id, None)
        elif self._due.get(row.id, ("", 0.0))[0] != row.held_due_at:
            left = min(max(0.0, clock.until(row.held_due_at)), _LONGEST)
            self._due[row.id] = (row.held_due_at, asyncio.get_running_loop().time() + left)
            self._changed.set()

    async def run(self) -> None:
        """Loop: sleeps until the next hold is over."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            for number, (due, when) in sorted(self._due.items(), key=lambda item: item[1][1]):
                if when <= loop.time():
                    await self._carry_out(number, due)
            following = min((when for _, when in self._due.values()), default=None)
            await until(self._changed, None if following is None else max(0.0, following - loop.time()))

    async def _carry_out(self, number: int, due: str) -> None:
        try:
            await self._store.write(lambda tx: intents.kill_due(tx, number, due))
            self._due.pop(number, None)
        except NotFound:
            self._due.pop(number, None)
        except StorageFull as error:
            log.warning("kill_postponed", task=number, error=error.message)
            self._due[number] = (due, asyncio.get_running_loop().time() + _RETRY)
