"""The way to the host: registration, heartbeats, and the outbox. It never gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import ValidationError

from daemons.common.log import Log
from daemons.common.threads import until
from daemons.runner.journal import Journal
from daemons.runner.model import Key
from daemons.runner.shim.proc import boottime
from hakuriver.aio import AsyncClient
from hakuriver.errors import Conflict, HakuRiverError, NotFound, StorageFull, Unreachable
from hakuriver.nodewire import (
    Heartbeat,
    HeartbeatAnswer,
    NodeFacts,
    NodeUsage,
    Registration,
    RegistrationAnswer,
    ReportAnswer,
    ReportBatch,
)
from hakuriver.paths import host_path

log = Log("link")
FIRST_DELAY, MAX_DELAY = 0.05, 5.0
GROWTH = 1.25  # a host that comes back is found within a quarter of the time it was away
BATCH = 500


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this runner is to the host."""

    name: str
    address: str
    boot_id: str


class Link:
    """Speaks to one host for ever."""

    def __init__(
        self,
        client: AsyncClient,
        identity: Identity,
        journal: Journal,
        *,
        facts: Callable[[], Awaitable[NodeFacts]],
        usage: Callable[[], Awaitable[NodeUsage]],
        fences: Callable[[], Awaitable[list[Key]]],
        acknowledged: Callable[[float, float], Awaitable[None]],
        reported: asyncio.Event,
        facts_changed: asyncio.Event,
    ) -> None:
        self._client = client
        self._identity = identity
        self._journal = journal
        self._facts = facts
        self._usage = usage
        self._fences = fences
        self._acknowledged = acknowledged
        self._reported = reported
        self._registered = asyncio.Event()
        self._facts_changed = facts_changed  # the host must know what is different
        self._interval = 5.0
        self._lease = 0.0
        self._epoch = 0
        self._trouble = ""

    async def heartbeats(self) -> None:
        """Register and stay registered."""
        delay = FIRST_DELAY
        while True:
            try:
                if not self._registered.is_set() or self._facts_changed.is_set():
                    await self._register()
                again = await self._beat()
                self._well()
                delay = FIRST_DELAY
                if not again:
                    await until(self._facts_changed, self._interval)
                    continue
            except (HakuRiverError, ValidationError) as error:
                if isinstance(error, Conflict | NotFound):
                    self._registered.clear()
                self._ill(error)
            await asyncio.sleep(delay)
            delay = min(delay * GROWTH, MAX_DELAY)

    async def _register(self) -> None:
        self._facts_changed.clear()
        self._registered.clear()  # until the host has the new facts, however often that takes
        request = Registration(
            name=self._identity.name,
            runner=self._journal.runner,
            cluster=await self._journal.call(self._journal.cluster),
            address=self._identity.address,
            facts=await self._facts(),
            high_water=await self._journal.call(self._journal.high_water),
        )
        body = await self._client.request("POST", host_path("register"), body=request.model_dump(mode="json"))
        answer = RegistrationAnswer.model_validate(body)
        await self._journal.call(self._journal.bind, answer.cluster, answer.epoch)
        self._interval = max(0.05, answer.heartbeat_interval)
        self._lease, self._epoch = answer.lease, answer.epoch
        self._registered.set()
        self._reported.set()
        log.info("registered", node=self._identity.name, host=self._client.url, cluster=answer.cluster)

    async def _beat(self) -> bool:
        """One heartbeat; True when the host wants to hear who we are at once."""
        usage = await self._usage()
        fences = await self._fences()
        version, attempts = await self._journal.call(self._journal.open_keys)
        beat = Heartbeat(
            runner=self._journal.runner,
            boot_id=self._identity.boot_id,
            journal_version=version,
            attempts=attempts,
            usage=usage,
            fences=fences,
            epoch=self._epoch,
        )
        sent = boottime()
        path = host_path("heartbeat", name=self._identity.name)
        body = await self._client.request(
            "POST", path, body=beat.model_dump(mode="json"), timeout=max(2.0, self._interval)
        )
        answer = HeartbeatAnswer.model_validate(body)
        introduce = answer.introduce or answer.epoch != self._epoch
        if introduce:
            self._registered.clear()
        else:
            await self._acknowledged(sent, self._lease)
        return introduce

    async def reports(self) -> None:
        """Send what waits in the outbox as soon as it is there, again until it is acknowledged."""
        delay = FIRST_DELAY
        while True:
            await self._registered.wait()
            await self._reported.wait()
            self._reported.clear()
            try:
                while await self._flush():
                    pass
                delay = FIRST_DELAY
            except (HakuRiverError, ValidationError) as error:
                self._reported.set()
                if not isinstance(error, Unreachable):
                    log.warning("reports_delayed", error=str(error))
                if isinstance(error, Conflict | NotFound):
                    self._registered.clear()
                    self._facts_changed.set()  # wakes the heartbeat, which registers
                await asyncio.sleep(delay)
                delay = min(delay * GROWTH, MAX_DELAY)

    async def _flush(self) -> bool:
        """Send one batch; whether there may be more."""
        reports = await self._journal.call(self._journal.outbox, BATCH)
        if not reports:
            return False
        batch = ReportBatch(runner=self._journal.runner, reports=reports)
        path = host_path("reports", name=self._identity.name)
        body = await self._client.request("POST", path, body=batch.model_dump(mode="json"))
        results = ReportAnswer.model_validate(body).results
        for each in results:
            if each.result == "refused":
                log.error("report_refused", task=each.task, attempt=each.attempt, message=each.message)
        await self._journal.call(self._journal.acknowledge, results)
        if not results:
            raise Unreachable("the host decided on none of the reports")
        return True

    async def goodbye(self) -> None:
        """The last words of a runner that stops in order."""
        if self._registered.is_set():
            while await self._flush():
                pass
            path = host_path("goodbye", name=self._identity.name)
            await self._client.request("POST", path, body={"runner": self._journal.runner}, timeout=2)

    def _ill(self, error: HakuRiverError | ValidationError) -> None:
        text = error.message if isinstance(error, HakuRiverError) else "the host's answer can't be understood"
        if text != self._trouble:
            self._trouble = text
            kind = log.warning if isinstance(error, Unreachable | StorageFull) else log.error
            kind("host_trouble", error=text)

    def _well(self) -> None:
        if self._trouble:
            log.info("host_answers", host=self._client.url)
            self._trouble = ""
            self._reported.set()
