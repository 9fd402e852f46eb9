"""One attempt while it is driven, and what it writes down about itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ParamSpec

from daemons.common.log import Log
from daemons.common.threads import until
from daemons.runner.journal import Journal
from daemons.runner.model import Attempt, Executor, Handle, Phase, Wish, limit_order
from daemons.runner.shim.limit import TimeLimit, fresh
from daemons.runner.shim.proc import boottime
from hakuriver.errors import HakuRiverError, StorageFull
from hakuriver.lifecycle import State

P = ParamSpec("P")
log = Log("agent")
MAX_DELAY = 5.0


class Records:
    """The journal, for what must be written whatever it takes."""

    def __init__(self, journal: Journal, boot_id: str) -> None:
        self.journal = journal
        self.boot_id = boot_id
        self.reported = asyncio.Event()  # something waits in the outbox

    async def store(self, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Write to the journal, again until there is space: what happened, happened."""
        delay = 0.1
        while True:
            try:
                return await self.journal.call(function, *args, **kwargs)
            except StorageFull as error:
                log.warning("journal_full", error=error.message)
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY)

    async def report(self, attempt: Attempt, phase: Phase, state: State, facts: dict[str, Any]) -> None:
        known = {"state": state, "at": datetime.now(UTC), "executor": attempt.spec.executor}
        known["image"] = attempt.handle.get("image")
        await self.store(self.journal.report, attempt.key, phase, known | facts)
        self.reported.set()


class Driven:
    """One attempt that has not ended."""

    def __init__(self, attempt: Attempt, executor: Executor, records: Records, *, grace: float) -> None:
        self.executor = executor
        self.running = asyncio.Event()
        self.ended = asyncio.Event()
        self.wished = asyncio.Event()
        self._killed = asyncio.Event()  # somebody wants its end
        self.clocked = asyncio.Event()  # its clock was stopped or went on
        self._attempt = attempt
        self._records = records
        self._grace = grace
        self._told = ""
        self._writing = asyncio.Lock()  # its reports are written one after the other
        self._moving = asyncio.Lock()

    @property
    def attempt(self) -> Attempt:
        return self._attempt

    def take_wish(self, wish: Wish | None) -> None:
        """Something else is wanted of it."""
        self._attempt.wish = wish
        self.wished.set()
        if self._attempt.kill_wanted:
            self._killed.set()

    # ---- what its executor says

    async def save(self, handle: Handle) -> None:
        attempt = self._attempt
        attempt.handle = handle
        attempt.boot_id = self._records.boot_id
        attempt.phase = max(attempt.phase, Phase.STARTING, key=list(Phase).index)
        if attempt.spec.time_limit is not None and not self.executor.keeps_time:
            attempt.clock = fresh(boottime())
        journal = self._records.journal
        await self._records.store(
            journal.save,
            attempt.key,
            phase=attempt.phase,
            boot_id=attempt.boot_id,
            handle=handle,
            cpus=attempt.cpus,
            clock=attempt.clock,
        )

    async def waiting(self, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            log.warning("attempt_waits", task=self.attempt.spec.task, reason=reason)
            await self.report(State.PREPARING, reason=reason)

    async def preparing(self, progress: str) -> None:
        if progress != self._told:
            self._told = progress
            await self.report(State.PREPARING, reason=progress)

    async def kill_comes(self) -> None:
        if not self._attempt.kill_wanted:
            await self._killed.wait()

    async def started(self, at: datetime) -> None:
        attempt = self._attempt
        if attempt.phase is not Phase.RUNNING:
            attempt.phase = Phase.RUNNING
            if attempt.clock is not None:
                ago = max(0.0, time.time() - at.timestamp())
                attempt.clock["since"] = max(attempt.clock["since"], boottime() - ago)
                await self.keep()
            await self.report(State.RUNNING, at=at, started_at=at)
        self.running.set()

    # ---- what is written down

    async def report(self, state: State, **facts: Any) -> None:
        """Journal a report, unless it has ended."""
        async with self._writing:
            if not self.ended.is_set():
                await self._records.report(self._attempt, self._attempt.phase, state, facts)
                self._attempt.state = state

    async def report_end(self, state: State, **facts: Any) -> None:
        """Journal the last report."""
        async with self._writing:
            self.ended.set()
        await self._records.report(self._attempt, Phase.ENDED, state, facts)

    async def keep(self) -> None:
        """Journal where it is bound to and how long it ran."""
        attempt = self._attempt
        await self._records.store(
            self._records.journal.keep, attempt.key, cpus=attempt.cpus, clock=attempt.clock
        )

    # ---- its time and its place

    @property
    def limit(self) -> TimeLimit | None:
        """Its time limit, where it is for this runner to keep."""
        clock, order = self._attempt.clock, limit_order(self._attempt.spec, self._grace)
        return None if clock is None or order is None else TimeLimit(order, clock)

    async def move(self, before: list[int], after: list[int]) -> None:
        """Take it to other CPUs, again until it is done or over."""
        async with self._moving:
            await self.keep()
            delay = 0.1
            while not self.ended.is_set():
                if not self.running.is_set():
                    await until(self.running, MAX_DELAY)
                    continue
                try:
                    await self.executor.move(self._attempt, before, after)
                    break
                except (HakuRiverError, TimeoutError) as error:
                    log.warning("move_delayed", task=self._attempt.spec.task, error=str(error))
                except Exception as error:  # noqa: BLE001  one attempt in trouble must not end the others
                    log.unexpected("move_in_trouble", error, task=self._attempt.spec.task)
                await until(self.ended, delay)
                delay = min(delay * 2, MAX_DELAY)
