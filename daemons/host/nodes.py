"""The nodes: who they are, whether they are alive, and what is free on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sqlalchemy import update

from daemons.common.log import Log
from daemons.host import clock
from daemons.host.ledger import Ledger
from daemons.host.nodeview import Known, devices, node_room, node_view, read_facts
from daemons.host.registration import NO_RECORD, lose, publish_node_with_tasks, store_registration
from daemons.host.rows import NodeRow
from daemons.host.scheduling.model import Room
from daemons.host.schema import node
from daemons.host.store import Store, Tx
from hakuriver.errors import Conflict, StorageFull
from hakuriver.lifecycle import NodeState
from hakuriver.nodewire import Heartbeat, HeartbeatAnswer, NodeUsage, Registration
from hakuriver.views import NodeView

MAX_HIGH_WATER = 10**12
"""Ids above that were never given: a journal that knows one is damaged."""
log = Log("nodes")


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
        self.version = 0
        """Another one whenever a node came, went, or became another machine."""
        self.untold: set[str] = set()
        """Nodes that have not told yet, after a restore, what runs there: nothing is placed on them."""
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
            self._known[row.name] = Known(row, read_facts(row), self._now(), row.seen_at)
            self.version += 1
            return
        if known.row.facts != row.facts:
            facts = read_facts(row)
            known.measured = known.measured and facts.boot_id == known.facts.boot_id
            known.facts = facts
            self.version += 1
        if row.state != NodeState.ONLINE:
            known.measured = False
        known.row = row

    def forget(self, name: str) -> None:
        """A node was removed."""
        self._known.pop(name, None)
        self.untold.discard(name)
        self.version += 1

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
        outcome = await self._store.write(lambda tx: store_registration(tx, given, facts, self._lease))
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
        if given.epoch not in (0, self._store.identity.epoch):
            return True  # written before the runner heard of a restore
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
            known.usage, known.measured = usage, True

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
        return [self._room(name) for name in self.names()]

    def _room(self, name: str) -> Room:
        known = self._known[name]
        return node_room(known, self._ledger.used(name), _closed(known.row) or self._untold(name))

    def out_of_use(self, name: str) -> frozenset[tuple[str, bool]]:
        """Devices that nobody, or only who names them, is given now: (id, lost)."""
        known = self._known.get(name)
        found = devices(known) if known is not None else ()
        return frozenset((each.id, bool(each.lost)) for each in found if each.lost or each.external)

    def _untold(self, name: str) -> str:
        return f"{name} has not told yet what runs there" if name in self.untold else ""

    def view(self, name: str) -> NodeView:
        """A node as clients see it; raises KeyError."""
        return node_view(self._known[name], self._ledger.used(name))

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


def _closed(row: NodeRow) -> str:
    if row.state != NodeState.ONLINE:
        return f"{row.name} is {row.state}"
    if row.drained:
        return f"{row.name} is drained{f' ({row.drain_reason})' if row.drain_reason else ''}"
    return ""
