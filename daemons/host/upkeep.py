"""Nodes taken out of use, put back, and forgotten."""

from __future__ import annotations

from sqlalchemy import delete, select, update

from daemons.common.log import Log
from daemons.host.registration import lose
from daemons.host.schema import attempt, node
from daemons.host.store import Tx
from hakuriver.errors import Conflict, NotFound
from hakuriver.lifecycle import ON_NODE, NodeState, State

_HOLDING = [*(str(state) for state in ON_NODE), str(State.STOPPED)]
log = Log("upkeep")


def no_node(name: str) -> NotFound:
    """The error for a name that no node has."""
    return NotFound(f"there is no node {name}", hint="hakuriver nodes lists them")


def drain(tx: Tx, name: str, reason: str, by: str) -> None:
    """Place nothing more on a node; raises NotFound."""
    _set(tx, name, drained=True, reason=reason or f"by {by}")
    log.warning("audit", act="drain", by=by, node=name, why=reason)


def undrain(tx: Tx, name: str, by: str) -> None:
    """Use a node again; raises NotFound."""
    _set(tx, name, drained=False, reason=None)
    log.warning("audit", act="undrain", by=by, node=name)


def _set(tx: Tx, name: str, *, drained: bool, reason: str | None) -> None:
    changed = update(node).where(node.c.name == name).values(drained=drained, drain_reason=reason)
    if not tx.execute(changed).rowcount:
        raise no_node(name)
    tx.publish_node(name)


def remove(tx: Tx, name: str, by: str, *, force: bool) -> None:
    """Forget a node that isn't online; with ``force`` what it may still run is lost. Raises NotFound, and
    Conflict while it is online or has live tasks."""
    state = tx.execute(select(node.c.state).where(node.c.name == name)).scalar()
    if state is None:
        raise no_node(name)
    if state == NodeState.ONLINE:
        raise Conflict(
            f"{name} is online, it would be back at once", hint="stop its runner first", code="node_online"
        )
    held = tx.execute(
        select(attempt.c.task, attempt.c.number)
        .where(attempt.c.node == name, attempt.c.state.in_(_HOLDING))
        .order_by(attempt.c.task)
    ).all()
    if held and not force:
        shown = ", ".join(str(row.task) for row in held[:5])
        more = f" and {len(held) - 5} more" if len(held) > 5 else ""
        raise Conflict(
            f"{name} has live tasks: {shown}{more}",
            hint="--force gives them up as lost; they may still run there",
            code="live_tasks",
        )
    log.warning("audit", act="remove", by=by, node=name, force=force, lost=len(held))
    lose(tx, [(row.task, row.number) for row in held], f"{name} was removed by {by}")
    tx.execute(delete(node).where(node.c.name == name))
    tx.publish_node_gone(name)
