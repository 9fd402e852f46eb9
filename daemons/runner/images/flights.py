"""One thing that is brought here for everybody who waits for it; it ends when nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from datetime import UTC, datetime
from typing import Any, TypeVar

from daemons.common.engine import EngineAway
from daemons.common.log import Log
from daemons.runner.images.stage import Stage
from daemons.runner.model import TryLater, Work
from hakuriver.errors import HakuRiverError, Internal
from hakuriver.views import WorkView

log = Log("images")
T = TypeVar("T")
Image = dict[str, Any]
"""What the engine says of an image that is here."""
Outcome = Image | HakuRiverError | EngineAway | TryLater

TOLD_INTERVAL = 2.0
"""Seconds between two words of an attempt about how far it is; more where very many wait."""
TELLERS = 10  # attempts that may tell in a second


class Flight:
    """Something on its way; ``stage`` is replaced whenever another thread goes on with it."""

    def __init__(self, verb: str, what: str) -> None:
        self.since = datetime.now(UTC)
        self.stage = Stage(verb, what)
        self.waiting = 0
        self.task: asyncio.Task[Outcome]
        self._what = what

    def next_stage(self, verb: str) -> Stage:
        """For one more thread."""
        self.stage = Stage(verb, self._what)
        return self.stage

    def view(self) -> WorkView:
        """How far it is, as clients see it."""
        return self.stage.view(self.since)

    def outcome(self) -> Image:
        """What came of it; raises what went wrong."""
        if self.task.cancelled():
            raise TryLater("the runner stops")
        found = self.task.result()
        if isinstance(found, Exception):
            raise found
        return found


Do = Callable[[Flight], Awaitable[Image]]


class Flights:
    """All that is on its way."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}
        self._group: asyncio.TaskGroup
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Loop: what is on its way lives here, not in those who wait for it."""
        async with asyncio.TaskGroup() as self._group:
            self.ready.set()
            await asyncio.Event().wait()

    async def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Something that goes on whoever waits for it; it may raise nothing."""
        await self.ready.wait()
        return self._group.create_task(work)

    def under_way(self) -> set[Hashable]:
        """What is on its way."""
        return set(self._flights)

    def view(self, key: Hashable) -> WorkView | None:
        """How far something is."""
        flight = self._flights.get(key)
        return None if flight is None else flight.view()

    async def bring(self, key: Hashable, what: str, do: Do, work: Work | None) -> Image:
        """Wait for something, which is begun if it isn't on its way. ``work`` is told how far it is, and
        leaves when it is to be killed; raises TryLater, EngineAway and HakuRiverError."""
        await self.ready.wait()
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = Flight("looking for", what)
            flight.task = self._group.create_task(self._fly(key, flight, do))
        flight.waiting += 1
        try:
            await (self._tell(flight, work) if work is not None else asyncio.wait({flight.task}))
            return flight.outcome()
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._flights.pop(key, None)
                flight.task.cancel()

    async def _tell(self, flight: Flight, work: Work) -> None:
        killed = asyncio.create_task(work.kill_comes())
        try:
            while not flight.task.done():
                await work.preparing(str(flight.stage))
                pause = max(TOLD_INTERVAL, flight.waiting / TELLERS)
                await asyncio.wait({flight.task, killed}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if killed.done():
                    raise TryLater("killed")
        finally:
            killed.cancel()

    async def _fly(self, key: Hashable, flight: Flight, do: Do) -> Outcome:
        """What came of it: an error must not end the others, so it is returned."""
        try:
            return await do(flight)
        except (HakuRiverError, EngineAway, TryLater) as error:
            return error
        except Exception as error:  # noqa: BLE001  a bug in one must not end the others
            log.unexpected("image_in_trouble", error, image=str(key))
            return Internal("something unexpected went wrong", hint="the runner's log has the details")
        finally:
            flight.stage.give_up()
            if self._flights.get(key) is flight:
                del self._flights[key]
