"""What a registration changes in the store: a node's row, and what its last life left behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.sqlite import insert

from daemons.common.log import Log
from daemons.host import clock
from daemons.host.schema import attempt, node, task
from daemons.host.store import Tx
from daemons.host.submit import reserve_ids
from hakuriver.errors import Conflict
from hakuriver.lifecycle import ENDED, ON_NODE, NodeState, State
from hakuriver.nodewire import NodeFacts, Registration

NO_RECORD = "the runner has no record of it"
_LIVE_ON_NODE = [*(str(state) for state in ON_NODE), str(State.STOPPED)]
log = Log("nodes")


def store_registration(tx: Tx, given: Registration, facts: str, lease: float) -> bool:
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
