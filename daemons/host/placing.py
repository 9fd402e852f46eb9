"""The loop around the scheduler: after each change, place what can be placed and say why the rest waits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping

from sqlalchemy import bindparam, insert, select, update

from daemons.common.log import Log
from daemons.host import clock
from daemons.host.environments.catalog import current_versions
from daemons.host.ledger import Ledger, Queue
from daemons.host.nodes import Nodes
from daemons.host.rows import TaskRow
from daemons.host.scheduling.model import QUEUED, Caps, Cluster, Placement, Plan, Reservation
from daemons.host.scheduling.passes import Known, place
from daemons.host.schema import allocation, attempt, task
from daemons.host.store import Store, Tx
from hakuriver.errors import StorageFull
from hakuriver.lifecycle import State

RETRY_SECONDS = 1.0
FIRST_REST = 0.25
LAST_REST = 30.0
MOST_SHAPES = 20_000
log = Log("scheduler")


class Placing:
    """Assigns pending tasks; ``wake`` says that the queue or a node changed."""

    def __init__(self, store: Store, ledger: Ledger, nodes: Nodes, caps: Caps) -> None:
        self._store = store
        self._ledger = ledger
        self._nodes = nodes
        self.caps = caps
        self._turn = ""
        self._known: tuple[int, Known] = (-1, {})
        self.reservations: tuple[Reservation, ...] = ()
        """Of the last pass."""
        self._changed = asyncio.Event()
        self._changed.set()

    def wake(self) -> None:
        """Something changed that may let a task go, or change why it waits."""
        self._changed.set()

    def rest(self, task: int, attempt: int) -> None:
        """A node didn't start a task: try again, but ever later, so that nothing spins."""
        delay = min(LAST_REST, FIRST_REST * 2.0 ** min(attempt - 2, 20))
        self._ledger.queue.rest(task)
        asyncio.get_running_loop().call_later(delay, self._rested, task)

    def _rested(self, task: int) -> None:
        self._ledger.queue.rested(task)
        self.wake()

    async def run(self) -> None:
        """Loop: one pass after each change."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                if await self.once():
                    self._changed.set()
            except StorageFull as error:
                log.warning("pass_postponed", error=error.message)
                await asyncio.sleep(RETRY_SECONDS)
                self._changed.set()

    async def once(self) -> bool:
        """One pass; returns whether another is worth it at once."""
        queue = self._ledger.queue
        if not queue.lanes:
            self.reservations = ()
            return False
        plan = place(queue.lanes, self.cluster(), self._shapes_known())
        self.reservations, self._turn = plan.reservations, plan.turn
        reasons = changed_reasons(plan, queue)
        if plan.placements or reasons:
            await self._store.write(lambda tx: store_plan(tx, plan, reasons))
        return plan.more

    def cluster(self) -> Cluster:
        """All that the scheduler looks at besides the queue."""
        return Cluster(
            tuple(self._nodes.rooms()),
            time.time(),
            self.caps,
            self._ledger.owners,
            self._ledger.batches,
            self._turn,
        )

    def _shapes_known(self) -> Known:
        """What earlier passes found out about shapes, as long as the nodes are what they were."""
        version, known = self._known
        if version != self._nodes.version or len(known) > MOST_SHAPES:
            self._known = self._nodes.version, {}
        return self._known[1]


def changed_reasons(plan: Plan, queue: Queue) -> dict[int, str]:
    """The reasons to write: what a pass found, where it differs from what is stored."""
    stored = queue.reasons
    placed = {placement.task for placement in plan.placements}
    changed = {number: why for number, why in plan.reasons.items() if stored.get(number, QUEUED) != why}
    for number in () if plan.more else stored:
        if number not in plan.reasons and number not in placed and queue.takes_part(number):
            changed[number] = QUEUED
    return changed


def store_plan(tx: Tx, plan: Plan, reasons: Mapping[int, str]) -> list[TaskRow]:
    """Assign what is still pending, with its allocation, and write changed reasons, in one transaction."""
    ids = [placement.task for placement in plan.placements] + list(reasons)
    pending: dict[int, int] = {}
    for start in range(0, len(ids), 500):
        chosen = select(task.c.id, task.c.attempt).where(
            task.c.id.in_(ids[start : start + 500]), task.c.state == str(State.PENDING)
        )
        pending.update((row.id, row.attempt) for row in tx.execute(chosen))
    placed = [placement for placement in plan.placements if placement.task in pending]
    if placed:
        _assign(tx, placed, pending)
    explained = [number for number in reasons if number in pending]
    if explained:
        tx.execute(
            update(attempt)
            .where(attempt.c.task == bindparam("b_task"), attempt.c.number == bindparam("b_number"))
            .values(reason=bindparam("b_reason")),
            [{"b_task": each, "b_number": pending[each], "b_reason": reasons[each]} for each in explained],
        )
    return tx.publish_tasks([placement.task for placement in placed] + explained)


def _assign(tx: Tx, placed: list[Placement], attempts: Mapping[int, int]) -> None:
    versions = current_versions(tx, [each.task for each in placed])
    keys = [
        {
            "b_task": each.task,
            "b_number": attempts[each.task],
            "b_node": each.node,
            "b_executor": each.executor,
            "b_version": versions.get(each.task),
        }
        for each in placed
    ]
    tx.execute(
        update(attempt)
        .where(attempt.c.task == bindparam("b_task"), attempt.c.number == bindparam("b_number"))
        .values(
            state=str(State.ASSIGNED),
            reason="",
            node=bindparam("b_node"),
            executor=bindparam("b_executor"),
            version=bindparam("b_version"),
            assigned_at=clock.now(),
        ),
        keys,
    )
    tx.execute(
        update(task).where(task.c.id == bindparam("b_task")).values(state=str(State.ASSIGNED)),
        [{"b_task": each.task} for each in placed],
    )
    tx.execute(
        insert(allocation),
        [
            {
                "task": each.task,
                "attempt": attempts[each.task],
                "node": each.node,
                "numa": each.numa,
                "cores": each.cores,
                "memory": each.memory,
                "device_ids": json.dumps(each.devices),
                "gpus": json.dumps(each.gpus),
            }
            for each in placed
        ],
    )
