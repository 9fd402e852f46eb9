"""Takes orders and intents, drives executors, reports what became of attempts.

Everything is journaled before it is done, and starting is the same path as finding again after a crash.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, ParamSpec

from daemons.common.log import Log
from daemons.runner.journal import Journal, wish_of
from daemons.runner.lease import Lease
from daemons.runner.model import Attempt, End, Executor, Handle, Key, Phase, TryLater, Wish, judge
from daemons.runner.threads import Threads, until
from hakuriver.errors import CannotFit, Conflict, HakuRiverError, NotFound, StorageFull, UsageError
from hakuriver.lifecycle import ENDED, Intent, State
from hakuriver.wire import AttemptOrder, IntentOrder, OrderAnswer
from hakuriver.wire import Executor as ExecutorName

P = ParamSpec("P")
log = Log("agent")
MAX_DELAY = 5.0
MAX_CLEAN_DELAY = 60.0
STARTING_PATIENCE = 1.0
FENCE_PATIENCE = 1.0  # seconds in which a fence must answer
FENCES_AT_ONCE = 64


class _Work:
    """One attempt while it is driven."""

    def __init__(self, agent: Agent, attempt: Attempt) -> None:
        self._agent = agent
        self._attempt = attempt
        self._told = ""
        self.writing = asyncio.Lock()  # reports of an attempt are written one after the other
        self.running = asyncio.Event()
        self.ended = asyncio.Event()
        self.wished = asyncio.Event()

    @property
    def attempt(self) -> Attempt:
        return self._attempt

    async def save(self, handle: Handle) -> None:
        attempt = self._attempt
        attempt.handle = handle
        attempt.boot_id = self._agent.boot_id
        attempt.phase = max(attempt.phase, Phase.STARTING, key=list(Phase).index)
        await self._agent.store(
            self._agent.journal.save, attempt.key, phase=attempt.phase, boot_id=attempt.boot_id, handle=handle
        )

    async def waiting(self, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            log.warning("attempt_waits", task=self.attempt.spec.task, reason=reason)
            await self._agent.report(self, State.PREPARING, reason=reason)

    async def started(self, at: datetime) -> None:
        if self._attempt.phase is not Phase.RUNNING:
            self._attempt.phase = Phase.RUNNING
            await self._agent.report(self, State.RUNNING, at=at, started_at=at)
        self.running.set()


class Agent:
    """All attempts of this node."""

    def __init__(
        self,
        journal: Journal,
        executors: Mapping[ExecutorName, Executor],
        *,
        boot_id: str,
        cpus: Collection[int],
        numa: Mapping[int, Collection[int]],
        lease: Lease,
        threads: Threads,
    ) -> None:
        self.journal = journal
        self.boot_id = boot_id
        self.reported = asyncio.Event()  # something waits in the outbox
        self.ended = asyncio.Event()  # something ended: its logs can be copied to their end
        self._executors = executors
        self._cpus = frozenset(cpus)
        self._numa = numa
        self._lease = lease
        self._threads = threads
        self._works: dict[Key, _Work] = {}
        self._group: asyncio.TaskGroup
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Find again what lives, then drive whatever is ordered, until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for attempt in await self.journal.call(self.journal.live):
                log.info("attempt_found", task=attempt.spec.task, attempt=attempt.spec.attempt)
                self._begin(attempt)
            for attempt in await self.journal.call(self.journal.uncleaned):
                self._group.create_task(self._clean(attempt))
            self._ready.set()
            await asyncio.Event().wait()

    # ---- what the host says

    async def order(self, key: Key, order: AttemptOrder) -> OrderAnswer:
        """Journal an order, then start it; raises what refuses it for good."""
        await self._ready.wait()
        if (order.spec.task, order.spec.attempt) != key:
            raise UsageError("the order is for another attempt than its address")
        if order.digest != order.spec.digest():
            raise UsageError("the digest doesn't match the order", code="bad_digest")
        if await self.journal.call(self.journal.attempt, key) is None:
            await self._check(order)
        early = self._wish(order.intent) if order.intent else None
        attempt, new = await self.journal.call(self.journal.accept, order, early)
        if new:
            log.info("attempt_accepted", task=key[0], attempt=key[1])
            self._begin(attempt)
        elif key in self._works:
            self._take_wish(self._works[key], attempt)
        return OrderAnswer(accepted=new, journal_version=self.journal.version)

    async def _check(self, order: AttemptOrder) -> None:
        executor = self._executors.get(order.spec.executor)
        if executor is None:
            raise CannotFit(f"this node has no executor {order.spec.executor}", code="no_executor")
        attempt = Attempt(order.spec, order.cluster, Phase.ACCEPTED, State.ASSIGNED, "")
        await self._threads.call(executor.check, attempt)

    async def intent(self, key: Key, order: IntentOrder) -> None:
        """Journal what is wanted of an attempt (known or not), and see to it."""
        await self._ready.wait()
        await self.journal.call(self.journal.wish, key, self._wish(order))
        if key in self._works:
            attempt = await self.journal.call(self.journal.attempt, key)
            if attempt is not None and key in self._works:
                self._take_wish(self._works[key], attempt)

    def _wish(self, order: IntentOrder) -> Wish:
        return wish_of(
            order, at=time.time(), at_boot=time.clock_gettime(time.CLOCK_BOOTTIME), boot_id=self.boot_id
        )

    def _take_wish(self, work: _Work, stored: Attempt) -> None:
        if stored.wish != work.attempt.wish:
            work.attempt.wish = stored.wish
            work.wished.set()

    async def signal(self, key: Key, number: int) -> None:
        """Now or never; raises Conflict when it doesn't run."""
        work = await self._running(key)
        await self._executors[work.attempt.spec.executor].signal(work.attempt, number)

    async def stdin(self, key: Key, offset: int, data: bytes, *, eof: bool) -> int:
        """Feed bytes; returns the next wanted offset."""
        work = await self._running(key)
        executor = self._executors[work.attempt.spec.executor]
        return await executor.stdin(work.attempt, offset, data, eof=eof)

    async def _running(self, key: Key) -> _Work:
        await self._ready.wait()
        work = self._works.get(key)
        if work is None and await self.journal.call(self.journal.attempt, key) is None:
            raise NotFound(f"this node doesn't know attempt {key[0]}.{key[1]}")
        if work is not None and work.attempt.phase is not Phase.ACCEPTED:
            await until(work.running, STARTING_PATIENCE)  # it may run already, and only be journaled just now
        if work is None or not work.running.is_set() or work.ended.is_set():
            raise Conflict(f"attempt {key[0]}.{key[1]} doesn't run", code="not_running")
        return work

    async def has_ended(self, key: Key) -> bool:
        """Whether an attempt's logs are final; raises NotFound for one that isn't known."""
        await self._ready.wait()
        if key in self._works:
            return False
        if await self.journal.call(self.journal.attempt, key) is None:
            raise NotFound(f"this node doesn't know attempt {key[0]}.{key[1]}")
        return key not in self._works

    def end_of(self, key: Key) -> asyncio.Event | None:
        """What is set when an attempt ends; None when it doesn't live."""
        work = self._works.get(key)
        return None if work is None else work.ended

    # ---- fences

    async def fences(self) -> list[Key]:
        """The fenced attempts whose fence answers at this moment."""
        at_once = asyncio.Semaphore(FENCES_AT_ONCE)

        async def ask(attempt: Attempt) -> Key | None:
            async with at_once:
                lives = await self._executors[attempt.spec.executor].fence_lives(attempt)
            return attempt.key if lives else None

        asking = [asyncio.create_task(ask(work.attempt)) for work in self._fenced() if work.running.is_set()]
        if not asking:
            return []
        done, late = await asyncio.wait(asking, timeout=FENCE_PATIENCE)
        for each in late:
            each.cancel()
        return sorted(key for each in done if (key := each.result()) is not None)

    def _fenced(self) -> list[_Work]:
        return [each for each in self._works.values() if each.attempt.spec.fenced]

    async def acknowledged(self, sent: float, lease: float) -> None:
        """The host acknowledged a heartbeat sent at a time of CLOCK_BOOTTIME: fenced attempts may go on."""
        self._lease.granted(sent, lease)
        if self._fenced():
            try:
                await self._lease.write()
            except (OSError, TimeoutError) as error:
                log.warning("lease_not_written", error=str(error) or "timed out")

    # ---- driving

    def _begin(self, attempt: Attempt) -> None:
        work = self._works[attempt.key] = _Work(self, attempt)
        if attempt.spec.executor == "process" and attempt.phase is Phase.ACCEPTED:
            attempt.handle["cpus"] = self._pick(attempt)
        self._group.create_task(self._drive(work))

    def _pick(self, attempt: Attempt) -> list[int]:
        used = Counter(cpu for work in self._works.values() for cpu in work.attempt.handle.get("cpus", ()))
        near = self._numa.get(attempt.spec.numa, ()) if attempt.spec.numa is not None else ()
        allowed = self._cpus & frozenset(near) or self._cpus
        return pick_cpus(math.ceil(attempt.spec.cores), allowed, used)

    async def _drive(self, work: _Work) -> None:
        attempt = work.attempt
        obeying = self._group.create_task(self._obey(work))
        try:
            end = await self._run(work)
        finally:
            obeying.cancel()
        await self._end(work, end)
        await self._clean(attempt)

    async def _clean(self, attempt: Attempt) -> None:
        """Remove what an ended attempt left on this machine, again until it is gone."""
        delay = 1.0
        while True:
            try:
                await self._executors[attempt.spec.executor].clean(attempt)
                break
            except (HakuRiverError, TimeoutError) as error:
                log.warning("clean_delayed", task=attempt.spec.task, error=str(error) or "timed out")
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_CLEAN_DELAY)
        await self.store(self.journal.cleaned, attempt.key)

    async def _run(self, work: _Work) -> End:
        """Until there is an end. What can't start now is tried again, unless somebody wants it killed."""
        attempt = work.attempt
        executor = self._executors[attempt.spec.executor]
        delay = 0.25
        while True:
            if attempt.phase is Phase.ACCEPTED and attempt.kill_wanted:
                return End(never_ran="killed", ended_at=datetime.now(UTC))
            try:
                return await executor.run(work)
            except TryLater as error:
                if attempt.kill_wanted:
                    return End(never_ran=str(error), ended_at=datetime.now(UTC))
                await work.waiting(str(error))
            except HakuRiverError as error:
                hint = f" ({error.hint})" if error.hint else ""
                return End(error=f"{error.message}{hint}", ended_at=datetime.now(UTC))
            except Exception as error:  # noqa: BLE001  one attempt in trouble must not end the others
                log.unexpected("attempt_in_trouble", error, task=attempt.spec.task)
            await until(work.wished, delay)
            delay = min(delay * 2, MAX_DELAY)

    async def _obey(self, work: _Work) -> None:
        """Carry out the newest intent, again and again until it is done."""
        delay = 0.1
        while True:
            work.wished.clear()
            wish = work.attempt.wish
            if wish is None or (wish.version <= work.attempt.carried and wish.intent is not Intent.KILL):
                await work.wished.wait()
                continue
            await work.running.wait()
            try:
                pause = await self._carry_out(work, work.attempt.wish or wish)
                delay = 0.1
            except (HakuRiverError, TryLater, TimeoutError) as error:
                log.warning("intent_delayed", task=work.attempt.spec.task, error=str(error) or "timed out")
                pause, delay = delay, min(delay * 2, MAX_DELAY)
            except Exception as error:  # noqa: BLE001  one attempt in trouble must not end the others
                log.unexpected("intent_in_trouble", error, task=work.attempt.spec.task)
                pause = MAX_DELAY
            await until(work.wished, pause)

    async def _carry_out(self, work: _Work, wish: Wish) -> float:
        """Act on an intent that is journaled; returns seconds after which to look again."""
        attempt = work.attempt
        executor = self._executors[attempt.spec.executor]
        if wish.intent is Intent.KILL:
            killing = asyncio.create_task(executor.kill(attempt, wish.grace))
            again = asyncio.create_task(work.wished.wait())  # killed again, more urgently
            try:
                await asyncio.wait({killing, again}, return_when=asyncio.FIRST_COMPLETED)
                if killing.done():
                    killing.result()
            finally:
                killing.cancel()
                again.cancel()
            return wish.grace + 5
        if wish.intent is Intent.PAUSE:
            await executor.pause(attempt)
            await self.report(work, State.PAUSED, intent_version=wish.version)
        else:
            if attempt.state is State.PAUSED:
                await executor.resume(attempt)
            await self.report(work, State.RUNNING, intent_version=wish.version)
        attempt.carried = wish.version
        return 0

    async def _end(self, work: _Work, end: End) -> None:
        attempt = work.attempt
        verdict = judge(end, attempt.wish, attempt.spec.memory)
        async with work.writing:
            work.ended.set()
        await self._store_report(
            work,
            Phase.ENDED,
            verdict.state,
            reason=verdict.reason,
            at=end.ended_at or datetime.now(UTC),
            intent_version=attempt.wish.version if attempt.wish else None,
            exit_code=end.exit_code,
            signal=end.signal,
            error=end.error or end.lost or end.cut,
            oom_events=end.oom_events,
            started_at=end.started_at,
            ended_at=end.ended_at or datetime.now(UTC) if verdict.state in ENDED else None,
        )
        self._works.pop(attempt.key, None)
        self.ended.set()
        log.info(
            "attempt_ended",
            task=attempt.spec.task,
            attempt=attempt.spec.attempt,
            state=verdict.state,
            reason=verdict.reason,
        )

    async def report(self, work: _Work, state: State, **facts: Any) -> None:
        """Journal a report about an attempt that hasn't ended."""
        async with work.writing:
            if not work.ended.is_set():
                await self._store_report(work, work.attempt.phase, state, **facts)
                work.attempt.state = state

    async def _store_report(self, work: _Work, phase: Phase, state: State, **facts: Any) -> None:
        attempt = work.attempt
        known = {"state": state, "at": datetime.now(UTC), "executor": attempt.spec.executor}
        await self.store(self.journal.report, attempt.key, phase, known | facts)
        self.reported.set()

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


def pick_cpus(count: int, allowed: Collection[int], used: Mapping[int, int]) -> list[int]:
    """The ``count`` least used CPUs (all, when there are fewer), ascending; none for 0."""
    ranked = sorted(allowed, key=lambda cpu: (used.get(cpu, 0), cpu))
    return sorted(ranked[:count])
