"""The nodes: who they are, whether they are alive, and what is free on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.sqlite import insert

from daemons.common.log import Log
from daemons.host import clock
from daemons.host.ledger import Ledger
from daemons.host.rows import NodeRow
from daemons.host.scheduler import Room
from daemons.host.schema import attempt, node, task
from daemons.host.store import Store, Tx
from daemons.host.submit import reserve_ids
from hakuriver.errors import Conflict, StorageFull
from hakuriver.lifecycle import ENDED, ON_NODE, NodeState, State
from hakuriver.units import millicores
from hakuriver.views import GpuView, NodeView, NumaView, UsageView
from hakuriver.wire import GpuUsage, Heartbeat, HeartbeatAnswer, NodeFacts, NodeUsage, Registration

NO_RECORD = "the runner has no record of it"
MAX_HIGH_WATER = 10**12
"""Ids above that were never given: a journal that knows one is damaged."""
_ON_NODE = [str(state) for state in ON_NODE]
_LIVE_ON_NODE = [*_ON_NODE, str(State.STOPPED)]
log = Log("nodes")


@dataclass(slots=True)
class Known:
    """A node as it is stored, with what only memory knows. ``seen`` is on the boottime clock."""

    row: NodeRow
    facts: NodeFacts
    seen: float
    seen_at: str | None
    usage: NodeUsage | None = None

    @property
    def online(self) -> bool:
        return self.row.state == NodeState.ONLINE


class Nodes:
    """All known nodes. Changed by committed changes (``apply``) and by signs of life."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        timeout: float,
        lease: float,
        now: Callable[[], float] = clock.boottime,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._timeout = timeout
        self._lease = lease
        self._now = now
        self._known: dict[str, Known] = {}
        self._checked = now()

    def __getitem__(self, name: str) -> Known:
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def get(self, name: str | None) -> Known | None:
        """A node by name, if it is known."""
        return self._known.get(name) if name is not None else None

    def names(self) -> list[str]:
        """Names of all nodes, in order."""
        return sorted(self._known)

    def apply(self, row: NodeRow) -> None:
        """Take a committed change in. A node that was just made known counts as seen now."""
        known = self._known.get(row.name)
        if known is None:
            self._known[row.name] = Known(row, _facts(row), self._now(), row.seen_at)
            return
        if known.row.facts != row.facts:
            known.facts = _facts(row)
        known.row = row

    # What runners say.

    async def register(self, given: Registration) -> None:
        """A runner says who it is; raises Conflict while another one of that name is alive, and for one
        whose journal belongs to another cluster: it would take no order."""
        ours = self._store.identity.cluster
        if given.cluster not in ("", ours):
            raise Conflict(
                f"the runner of {given.name} belongs to cluster {given.cluster}, this is {ours}",
                hint="give this node a fresh --state-dir to make it part of this cluster",
                code="other_cluster",
            )
        if given.high_water > MAX_HIGH_WATER:
            raise Conflict(f"the journal of {given.name} speaks of task {given.high_water}: that can't be")
        facts = given.facts.model_dump_json()
        outcome = await self._store.write(lambda tx: _store_registration(tx, given, facts, self._lease))
        if outcome:
            log.info("node_registered", node=given.name, address=given.address)
        self._sign_of_life(given.name, None)

    async def heartbeat(self, name: str, given: Heartbeat) -> bool:
        """A runner is alive; returns whether it should register again. Raises Conflict for a stranger."""
        known = self._known.get(name)
        if known is None:
            return True
        check_runner(name, known.row.runner, given.runner)
        if known.row.state == NodeState.OFFLINE or known.facts.boot_id != given.boot_id:
            return True
        self._sign_of_life(name, given.usage)
        if not known.online:
            await self._set_state(name, NodeState.ONLINE, "", expected=NodeState.UNREACHABLE)
        await self._find_forgotten(name, given)
        return False

    async def goodbye(self, name: str, runner: str) -> None:
        """A runner stops; its tasks go on without it."""
        known = self._known.get(name)
        if known is None:
            return
        check_runner(name, known.row.runner, runner)
        self._sign_of_life(name, known.usage)
        await self._set_state(name, NodeState.OFFLINE, "its runner was stopped")
        log.info("node_offline", node=name)

    def _sign_of_life(self, name: str, usage: NodeUsage | None) -> None:
        known = self._known.get(name)
        if known is None:
            return
        known.seen, known.seen_at = self._now(), clock.now()
        if usage is not None:
            known.usage = usage

    async def _set_state(
        self, name: str, state: NodeState, reason: str, expected: NodeState | None = None
    ) -> None:
        seen_at = self._known[name].seen_at

        def operation(tx: Tx) -> None:
            chosen = update(node).where(node.c.name == name, node.c.state != str(state))
            if expected is not None:
                chosen = chosen.where(node.c.state == str(expected))
            if tx.execute(chosen.values(state=str(state), reason=reason, seen_at=seen_at)).rowcount:
                publish_node_with_tasks(tx, name)

        await self._store.write(operation)

    async def _find_forgotten(self, name: str, given: Heartbeat) -> None:
        """Attempts whose order the runner acknowledged before it wrote this heartbeat, and knows no more."""
        held = self._ledger.used(name).tasks
        if not held:
            return
        listed = set(given.attempts)
        missing = [
            key
            for key in held.items()
            if key not in listed
            and self._ledger.acked.get(key, given.journal_version + 1) <= given.journal_version
        ]
        if missing:
            await self._store.write(lambda tx: lose(tx, missing, NO_RECORD, given.journal_version))

    # Whether they still say it.

    async def watch(self, interval: float, then: Callable[[], Awaitable[None]]) -> None:
        """Loop: nodes that were silent for too long are unreachable; ``then`` looks at those."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.check(interval)
                await then()
            except StorageFull as error:
                log.warning("check_postponed", error=error.message)

    async def check(self, interval: float) -> None:
        """One look at all nodes. A host that itself was asleep forgives everybody's silence."""
        now = self._now()
        slept = now - self._checked - interval
        self._checked = now
        if slept > self._timeout / 3:
            log.info("host_was_suspended", seconds=round(slept, 1))
            for known in self._known.values():
                known.seen = max(known.seen, now)
            return
        for name in self.names():
            known = self._known[name]
            if known.online and now - known.seen > self._timeout:
                log.warning("node_unreachable", node=name, silent=round(now - known.seen, 1))
                reason = f"no sign of life since {known.seen_at or 'the host started'}"
                await self._set_state(name, NodeState.UNREACHABLE, reason, expected=NodeState.ONLINE)

    # What others see.

    def rooms(self) -> list[Room]:
        """Every node with what is free there, for the scheduler."""
        return [self._room(self._known[name]) for name in self.names()]

    def _room(self, known: Known) -> Room:
        used = self._ledger.used(known.row.name)
        facts = known.facts
        cores = millicores(facts.cores)
        return Room(
            name=known.row.name,
            cores=cores,
            cores_free=cores - used.cores,
            memory=facts.memory,
            memory_free=facts.memory - used.memory,
            executors=frozenset(facts.executors),
            closed=_closed(known.row),
            numa=frozenset(each.id for each in facts.numa),
            gpus={each.index: each.uuid for each in facts.gpus},
            devices_used=frozenset(used.devices),
            tasks=len(used.tasks),
        )

    def view(self, name: str) -> NodeView:
        """A node as clients see it; raises KeyError."""
        known = self._known[name]
        row, facts, used = known.row, known.facts, self._ledger.used(name)
        return NodeView(
            name=name,
            state=row.state,
            reason=row.reason,
            address=row.address,
            cores=facts.cores,
            cores_free=max(0, millicores(facts.cores) - used.cores) / 1000,
            memory=facts.memory,
            memory_free=max(0, facts.memory - used.memory),
            numa=[
                NumaView(id=each.id, cpus=each.cpus, memory=each.memory, memory_free=None)
                for each in facts.numa
            ],
            gpus=_gpus(known, used.devices),
            executors=list(facts.executors),
            unavailable=dict(facts.unavailable),
            labels=dict(facts.labels),
            drained=row.drained,
            drain_reason=row.drain_reason,
            usage=_usage(known),
            tasks=len(used.tasks),
            version=facts.version,
            boot_id=facts.boot_id,
            registered_at=row.registered_at,
            seen_at=known.seen_at,
        )

    def unavailable(self) -> dict[tuple[str, str], str]:
        """Why executors can't be used: (node, executor) → reason."""
        return {
            (name, executor): why
            for name, known in self._known.items()
            for executor, why in known.facts.unavailable.items()
        }


def check_runner(name: str, owner: str, runner: str) -> None:
    """A node speaks only through the runner that registered it."""
    if owner != runner:
        raise Conflict(f"node {name} belongs to another runner", code="other_runner")


def heartbeat_answer(epoch: int, introduce: bool) -> HeartbeatAnswer:
    """The acknowledgement of a heartbeat."""
    return HeartbeatAnswer(epoch=epoch, introduce=introduce)


def lose(tx: Tx, keys: Sequence[tuple[int, int]], reason: str, version: int | None = None) -> None:
    """End attempts that their node can't account for; with ``version``, only orders acknowledged by then."""
    lost: list[int] = []
    now = clock.now()
    for number, attempt_number in keys:
        chosen = update(attempt).where(
            attempt.c.task == number, attempt.c.number == attempt_number, attempt.c.state.in_(_LIVE_ON_NODE)
        )
        if version is not None:
            chosen = chosen.where(attempt.c.acked <= version)
        ended = {"state": str(State.LOST), "reason": reason, "ended_at": now, "held_due_at": None}
        if tx.execute(chosen.values(**ended)).rowcount:
            tx.execute(
                update(task)
                .where(task.c.id == number, task.c.attempt == attempt_number)
                .values(state=str(State.LOST))
            )
            log.warning("attempt_lost", task=number, attempt=attempt_number, reason=reason)
            lost.append(number)
    tx.publish_tasks(lost)


def publish_node_with_tasks(tx: Tx, name: str) -> None:
    """Announce a node, and the tasks on it: their reason says where their node is."""
    tx.publish_node(name)
    held = tx.execute(
        select(task.c.id)
        .join(attempt, (attempt.c.task == task.c.id) & (attempt.c.number == task.c.attempt))
        .where(attempt.c.node == name, attempt.c.state.not_in([str(state) for state in ENDED]))
        .order_by(task.c.id)
    ).scalars()
    tx.publish_tasks(list(held))


def _store_registration(tx: Tx, given: Registration, facts: str, lease: float) -> bool:
    """Returns whether anything changed. From now on no id is given that this journal has seen."""
    reserve_ids(tx, given.high_water)
    before = tx.execute(select(node).where(node.c.name == given.name)).first()
    values: dict[str, Any] = {
        "runner": given.runner,
        "address": given.address,
        "state": str(NodeState.ONLINE),
        "reason": "",
        "facts": facts,
        "lease": lease,
    }
    if before is not None and _same_life(before.runner, before.facts, given):
        values["lease"] = max(lease, before.lease)  # it may not have heard of a shorter one
    if before is not None and before.state == NodeState.ONLINE and before.runner != given.runner:
        raise Conflict(
            f"there is an online node {given.name} with another runner",
            hint="give this runner another name: --name, or [node] name",
            code="name_in_use",
        )
    if before is not None and all(before._mapping[key] == value for key, value in values.items()):
        return False
    now = clock.now()
    row = {"name": given.name, **values, "seen_at": now, "registered_at": now, "drained": False}
    changed = {**values, "seen_at": now}
    tx.execute(insert(node).values(row).on_conflict_do_update(index_elements=["name"], set_=changed))
    if before is not None and before.runner != given.runner:
        _lose_all(tx, given.name)
    if before is not None and before.state != NodeState.ONLINE:
        publish_node_with_tasks(tx, given.name)
    else:
        tx.publish_node(given.name)
    return True


def _lose_all(tx: Tx, name: str) -> None:
    """Another journal took a name over: what the old one held can't be followed any more."""
    held = tx.execute(
        select(attempt.c.task, attempt.c.number).where(
            attempt.c.node == name, attempt.c.state.in_(_LIVE_ON_NODE)
        )
    ).all()
    lose(tx, [(row.task, row.number) for row in held], f"{name} came back with another journal; {NO_RECORD}")


def _same_life(runner: str, facts: str, given: Registration) -> bool:
    return runner == given.runner and NodeFacts.model_validate_json(facts).boot_id == given.facts.boot_id


def _facts(row: NodeRow) -> NodeFacts:
    return NodeFacts.model_validate_json(row.facts)


def _closed(row: NodeRow) -> str:
    if row.state != NodeState.ONLINE:
        return f"{row.name} is {row.state}"
    if row.drained:
        return f"{row.name} is drained{f' ({row.drain_reason})' if row.drain_reason else ''}"
    return ""


def _gpus(known: Known, devices: dict[str, int]) -> list[GpuView]:
    measured = {each.uuid: each for each in known.usage.gpus} if known.usage else {}
    shown: list[GpuView] = []
    for each in known.facts.gpus:
        use = measured.get(each.uuid) or GpuUsage(uuid=each.uuid)
        shown.append(
            GpuView(
                index=each.index,
                uuid=each.uuid,
                model=each.model,
                memory=each.memory,
                memory_used=use.memory_used,
                utilization=use.utilization,
                temperature=use.temperature,
                power=use.power,
                numa=each.numa,
                task=devices.get(each.uuid),
                external=use.external,
            )
        )
    return shown


def _usage(known: Known) -> UsageView | None:
    use = known.usage
    if use is None:
        return None
    return UsageView(
        cpu_percent=use.cpu_percent,
        load=use.load,
        memory_used=use.memory_used,
        disk_free=use.disk_free,
        temperature=use.temperature,
    )
