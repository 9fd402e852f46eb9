"""The only part of the host that talks to runners: makes it so, as the store says, until they acknowledge it.

Nothing is kept here but what is being done: after a crash the store says again what each attempt still needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import httpx
from sqlalchemy.exc import SQLAlchemyError

from daemons.common.log import Log
from daemons.host.ledger import Key, Ledger
from daemons.host.nodes import Nodes
from daemons.host.orders import Job, acknowledge, load_job, load_stray, refused, say
from daemons.host.rows import TaskRow
from daemons.host.store import Store
from hakuriver.aio import AsyncClient
from hakuriver.api import Query
from hakuriver.errors import POLICY, HakuRiverError, NotAllowed, StorageFull, Unreachable
from hakuriver.lifecycle import ENDED, NodeState
from hakuriver.nodewire import OrderAnswer
from hakuriver.paths import runner_path

IN_FLIGHT = 32
FIRST_BACKOFF = 0.1
LAST_BACKOFF = 5.0
SILENT_SECONDS = 2.0
"""How long a node may not answer before its tasks say so."""
_NODE_WIDE = frozenset({401, 403, 429})
_NODE_WIDE_CODES = frozenset({"wire_version", "other_cluster", "old_epoch"})
"""Refusals that are about the two daemons, not about the task."""
_SILENT = frozenset({NodeState.OFFLINE, NodeState.REMOVED})
_ENDED = frozenset(str(state) for state in ENDED)
log = Log("dispatcher")


@dataclass(slots=True)
class _Lane:
    """What one node still needs to be told, and how well it listens."""

    waiting: dict[Key, None] = field(default_factory=dict)
    busy: set[Key] = field(default_factory=set)
    strays: set[Key] = field(default_factory=set)  # over for us, alive there
    failures: int = 0
    silent_since: float | None = None
    not_before: float = 0.0
    timer: asyncio.TimerHandle | None = None


class Dispatcher:
    """Told of every committed task (``consider``); tells the runners."""

    def __init__(self, store: Store, ledger: Ledger, nodes: Nodes, token: str) -> None:
        self._store = store
        self._ledger = ledger
        self._nodes = nodes
        self._token = token
        self._lanes: dict[str, _Lane] = {}
        self._clients: dict[str, AsyncClient] = {}
        self._retired: list[AsyncClient] = []
        self._wake = asyncio.Event()

    # What has to be said

    def consider(self, row: TaskRow) -> None:
        """A task changed: does its node have to be told something?"""
        if row.node is None or row.state in _ENDED:
            return
        if row.acked is None or row.intent_version > row.intent_sent:
            self._lanes.setdefault(row.node, _Lane()).waiting[row.key] = None
            self._wake.set()

    def end_stray(self, name: str, key: Key) -> None:
        """A node has an attempt that is over for the host: it must end there too."""
        lane = self._lanes.setdefault(name, _Lane())
        lane.strays.add(key)
        lane.waiting[key] = None
        self._wake.set()

    def node_alive(self, name: str) -> None:
        """A node gave a sign of life: worth trying again now."""
        lane = self._lanes.get(name)
        if lane is not None and (lane.failures or lane.waiting):
            lane.not_before = 0.0
            self._wake.set()

    async def run(self) -> None:
        """Loop: keeps every lane moving."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wake.wait()
                self._wake.clear()
                for name, lane in self._lanes.items():
                    self._pump(group, name, lane)

    def _pump(self, group: asyncio.TaskGroup, name: str, lane: _Lane) -> None:
        loop = asyncio.get_running_loop()
        if self._must_register(name):
            return
        pause = lane.not_before - loop.time()
        if pause > 0:
            if lane.timer is None and lane.waiting:
                lane.timer = loop.call_later(pause, self._again, lane)
            return
        room = (1 if lane.failures else IN_FLIGHT) - len(lane.busy)
        for key in [each for each in lane.waiting if each not in lane.busy][: max(0, room)]:
            del lane.waiting[key]
            lane.busy.add(key)
            group.create_task(self._deliver(name, lane, key))

    def _must_register(self, name: str) -> bool:
        """A node that said goodbye, or that has not been seen since a restore, speaks first."""
        known = self._nodes.get(name)
        return known is not None and known.row.state in _SILENT

    def _again(self, lane: _Lane) -> None:
        lane.timer = None
        self._wake.set()

    # Saying it

    async def _deliver(self, name: str, lane: _Lane, key: Key) -> None:
        """Do what one attempt needs now; whatever goes wrong is this attempt's or this node's alone."""
        try:
            load = partial(load_stray, name=name) if key in lane.strays else load_job
            job = await self._store.read(lambda connection: load(connection, key))
            if job is not None and job.node == name:
                await self._tell(name, lane, job)
            lane.strays.discard(key)
        except Unreachable as error:
            await self._unanswered(name, lane, key, error.message)
        except StorageFull as error:
            self._retry_later(lane, key, error.message)
        except (ValueError, LookupError, SQLAlchemyError) as error:  # an answer or a row that makes no sense
            self._retry_later(lane, key, str(error))
        finally:
            lane.busy.discard(key)
            self._wake.set()

    async def _tell(self, name: str, lane: _Lane, job: Job) -> None:
        number, attempt = job.key
        try:
            if job.order is not None:
                path, body = (
                    runner_path("order", task=number, attempt=attempt),
                    job.order.model_dump(mode="json"),
                )
            else:
                assert job.intent is not None
                path = runner_path("intent", task=number, attempt=attempt)
                body = job.intent.model_dump(mode="json")
            answer = await self.client(name).request("PUT", path, body=body)
        except Unreachable:
            raise
        except HakuRiverError as error:
            await self._refused(lane, job, error)
            return
        lane.failures, lane.silent_since = 0, None
        if job.order is None:
            await self._store.write(lambda tx: acknowledge(tx, job, None))
            return
        version = OrderAnswer.model_validate(answer).journal_version
        await self._store.write(lambda tx: acknowledge(tx, job, version))
        self._ledger.acknowledged(job.key, version)

    async def _refused(self, lane: _Lane, job: Job, error: HakuRiverError) -> None:
        """An answer, and it is no: final when it is about the task, worth a retry otherwise."""
        lane.failures, lane.silent_since = 0, None
        if not _is_definite(error):
            self._retry_later(lane, job.key, error.message)
            await self._store.write(lambda tx: say(tx, [job.key], f"{job.node} answers: {error.message}"))
            return
        what = "order_refused" if job.order is not None else "intent_refused"
        log.warning(what, task=job.key[0], attempt=job.key[1], node=job.node, why=error.message)
        why = f"{error.message} ({error.hint})" if error.hint else error.message
        await self._store.write(lambda tx: refused(tx, job, why))

    async def _unanswered(self, name: str, lane: _Lane, key: Key, why: str) -> None:
        """Back off from the whole node; after a while its tasks say so."""
        loop = asyncio.get_running_loop()
        lane.waiting[key] = None
        if loop.time() < lane.not_before:
            return  # one of many that were under way together
        lane.failures += 1
        lane.not_before = loop.time() + _backoff(lane.failures)
        if lane.silent_since is None:
            lane.silent_since = loop.time()
            log.warning("node_unanswered", node=name, why=why)
        if loop.time() - lane.silent_since >= SILENT_SECONDS:
            keys = list(lane.waiting)
            with contextlib.suppress(StorageFull):
                await self._store.write(lambda tx: say(tx, keys, f"{name} doesn't answer, may have started"))

    def _retry_later(self, lane: _Lane, key: Key, why: str) -> None:
        log.warning("retry", task=key[0], attempt=key[1], why=why)

        def again() -> None:
            lane.waiting[key] = None
            self._wake.set()

        asyncio.get_running_loop().call_later(LAST_BACKOFF * random.uniform(0.5, 1), again)  # noqa: S311

    # Connections

    def client(self, name: str) -> AsyncClient:
        """The connection pool to a node at its present address; raises Unreachable for an unknown one."""
        known = self._nodes.get(name)
        if known is None:
            raise Unreachable(f"{name} is not known", code="node_unreachable")
        found = self._clients.get(name)
        if found is None or found.url != known.row.address.rstrip("/"):
            if found is not None:
                self._retired.append(found)  # others may still be using it
            found = self._clients[name] = AsyncClient(known.row.address, self._token, timeout=10)
        return found

    @asynccontextmanager
    async def open(
        self,
        name: str,
        method: str,
        path: str,
        *,
        query: Query,
        body: bytes | None = None,
        timeout: float = 10,
    ) -> AsyncIterator[httpx.Response]:
        """An exchange with a runner for somebody who waits; raises Unreachable, or what it answered."""
        try:
            async with self.client(name).open(
                method, path, query=query, body=body, timeout=timeout
            ) as response:
                yield response
        except (Unreachable, NotAllowed) as error:
            raise _away(name, error) from error

    async def ask(self, name: str, path: str, *, query: Query, body: object) -> Mapping[str, object]:
        """A POST to a runner, now or never."""
        try:
            answer = await self.client(name).request("POST", path, query=query, body=body)
        except (Unreachable, NotAllowed) as error:
            raise _away(name, error) from error
        return answer if isinstance(answer, Mapping) else {}

    async def close(self) -> None:
        """Close all connections."""
        for client in (*self._clients.values(), *self._retired):
            await client.aclose()


def _is_definite(error: HakuRiverError) -> bool:
    """Whether an answer is a refusal of just this order or intent: asking again would change nothing."""
    if error.instance_code in _NODE_WIDE_CODES:
        return False
    node_wide = error.http_status in _NODE_WIDE and error.instance_code != POLICY
    return 400 <= error.http_status < 500 and not node_wide


def _away(name: str, error: HakuRiverError) -> Unreachable:
    """What a caller hears: whether the runner knows this host is not about the caller's own credential."""
    what = "refuses this host" if isinstance(error, NotAllowed) else "doesn't answer"
    return Unreachable(f"node {name} {what}", hint=error.message, code="node_unreachable")


def _backoff(failures: int) -> float:
    longest: float = min(LAST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures, 10))
    return longest * random.uniform(0.5, 1)  # noqa: S311
