"""Takes orders and intents, drives executors, reports what became of attempts.

Everything is journaled before it is done, and starting is the same path as finding again after a crash.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from daemons.common.log import Log
from daemons.common.threads import Threads, until
from daemons.runner.cpus import Cpus
from daemons.runner.driven import MAX_DELAY, Driven, Records
from daemons.runner.journal import Journal, wish_of
from daemons.runner.lease import Lease
from daemons.runner.model import Attempt, End, Executor, Key, Phase, TryLater, Wish, judge
from daemons.runner.obeying import keep_time, obey
from daemons.runner.shim.proc import boottime
from hakuriver.errors import PRUNED, CannotFit, Conflict, HakuRiverError, NotFound, UsageError
from hakuriver.fields import Executor as ExecutorName
from hakuriver.lifecycle import ENDED, State
from hakuriver.nodewire import AttemptOrder, IntentOrder, OrderAnswer

log = Log("agent")
MAX_CLEAN_DELAY = 60.0
STARTING_PATIENCE = 1.0
FENCE_PATIENCE = 1.0  # seconds in which a fence must answer
FENCES_AT_ONCE = 64


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
        kill_grace: float,
        lease: Lease,
        threads: Threads,
    ) -> None:
        self.journal = journal
        self.boot_id = boot_id
        self.records = Records(journal, boot_id)
        self.ended = asyncio.Event()  # something ended: its logs can be copied to their end
        self._executors = executors
        self._cpus = Cpus(cpus, numa)
        self._kill_grace = kill_grace
        self._lease = lease
        self._threads = threads
        self._works: dict[Key, Driven] = {}
        self._group: asyncio.TaskGroup
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Find again what lives, then drive whatever is ordered, until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            found = await self.journal.call(self.journal.live)
            for attempt in sorted(found, key=lambda each: each.phase is Phase.ACCEPTED):
                log.info("attempt_found", task=attempt.spec.task, attempt=attempt.spec.attempt)
                self._begin(attempt)
            self._make_room()
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

    def _take_wish(self, work: Driven, stored: Attempt) -> None:
        if stored.wish != work.attempt.wish:
            work.take_wish(stored.wish)

    async def signal(self, key: Key, number: int) -> None:
        """Now or never; raises Conflict when it doesn't run."""
        work = await self._running(key)
        await self._executors[work.attempt.spec.executor].signal(work.attempt, number)

    async def stdin(self, key: Key, offset: int, data: bytes, *, eof: bool) -> int:
        """Feed bytes; returns the next wanted offset."""
        work = await self._running(key)
        executor = self._executors[work.attempt.spec.executor]
        return await executor.stdin(work.attempt, offset, data, eof=eof)

    async def _running(self, key: Key) -> Driven:
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
            at = await self.journal.call(self.journal.forgotten_at, key)
            if at is not None:
                raise NotFound(f"on {datetime.fromtimestamp(at, UTC):%Y-%m-%d}, by its age", code=PRUNED)
            raise NotFound(f"this node doesn't know attempt {key[0]}.{key[1]}")
        return key not in self._works

    async def living(self) -> list[Attempt]:
        """All attempts that are driven here."""
        await self._ready.wait()
        return [work.attempt for work in self._works.values()]

    async def lives(self, key: Key) -> bool:
        """Whether an attempt is driven here."""
        await self._ready.wait()
        return key in self._works

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

    def _fenced(self) -> list[Driven]:
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
        executor = self._executors[attempt.spec.executor]
        work = Driven(attempt, executor, self.records, grace=self._kill_grace)
        self._works[attempt.key] = work
        again = attempt.phase is not Phase.ACCEPTED
        attempt.cpus = self._cpus.take(attempt, by_quota=executor.by_quota, again=again)
        if attempt.spec.pin:
            self._make_room()
        elif again and self._cpus.any_pinned:
            self._move(work, attempt.cpus)  # it may not have been told when we were killed
        self._group.create_task(self._drive(work))

    def _make_room(self) -> None:
        """Pinned attempts have changed: let the others get out of their way, or have the room again."""
        for key, cpus in self._cpus.moves():
            self._move(self._works[key], cpus)

    def _move(self, work: Driven, cpus: list[int]) -> None:
        every = sorted(self._cpus.every)
        before, work.attempt.cpus = work.attempt.cpus, cpus
        self._group.create_task(work.move(before or every, cpus or every))

    async def _drive(self, work: Driven) -> None:
        attempt = work.attempt
        beside = [self._group.create_task(obey(work)), self._group.create_task(keep_time(work))]
        try:
            end = await self._run(work)
        finally:
            for each in beside:
                each.cancel()
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
        await self.records.store(self.journal.cleaned, attempt.key)

    async def _run(self, work: Driven) -> End:
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

    async def _end(self, work: Driven, end: End) -> None:
        attempt = work.attempt
        verdict = judge(with_limit(end, attempt), attempt.wish, attempt.spec.memory, attempt.spec.time_limit)
        await work.report_end(
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
        self._cpus.leave(attempt.key)
        if attempt.spec.pin:
            self._make_room()
        self.ended.set()
        log.info(
            "attempt_ended",
            task=attempt.spec.task,
            attempt=attempt.spec.attempt,
            state=verdict.state,
            reason=verdict.reason,
        )


def with_limit(end: End, attempt: Attempt) -> End:
    """An end together with what this runner knows of the time limit: it counts if it was reached before."""
    over = None if attempt.clock is None else attempt.clock["over"]
    if over is None or end.ended_at is None:
        return end
    ended = boottime() - (time.time() - end.ended_at.timestamp())
    return replace(end, over_limit=over) if ended >= over else end
