"""Tasks whose node is lost: when they may move on, and what is done with those that turn out to be alive.

An attempt is given up for another only when its fence has ended it: the node's last heartbeat said that the
fence was alive, and the lease of that heartbeat is over. Where nobody can know that, it stays, and only a
person can move it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select, update

from daemons.common.log import Log
from daemons.host import clock
from daemons.host.dispatcher import Dispatcher
from daemons.host.intents import no_task
from daemons.host.ledger import Key, Ledger
from daemons.host.nodes import Nodes
from daemons.host.orders import strays
from daemons.host.rows import TaskRow
from daemons.host.schema import attempt, node, task
from daemons.host.store import Store, Tx
from daemons.host.submit import first_attempt
from hakuriver.errors import Conflict, HakuRiverError, StorageFull
from hakuriver.lifecycle import ENDED, ON_NODE, Intent, NodeState, State
from hakuriver.nodewire import Heartbeat

GRACE = 10.0
"""Seconds that a fence may need after its lease is over."""
_MOST = 500  # strays looked up at a time
_ENDED = [str(state) for state in ENDED]
_ON_NODE = [str(state) for state in ON_NODE]
log = Log("losses")


@dataclass(frozen=True, slots=True)
class Move:
    """Who wants an attempt given up, and why it may be. ``force``: whether or not it still runs.
    ``kept_back``: it waits for nodes that may have run it before a restore."""

    by: str
    force: bool
    lease_left: float  # seconds, of the lease with its grace
    kept_back: bool = False


class Losses:
    """Told of every heartbeat (``heard``); moves what may move (``once``)."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        nodes: Nodes,
        dispatcher: Dispatcher,
        *,
        patience: float,
        now: Callable[[], float] = clock.boottime,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._nodes = nodes
        self._dispatcher = dispatcher
        self._patience = patience
        self._now = now
        self._fences: dict[str, frozenset[Key]] = {}
        self._strays: dict[str, dict[Key, float]] = {}  # node → attempt, listed since when

    async def heard(self, name: str, given: Heartbeat) -> None:
        """Take note of fences before the heartbeat is acknowledged, and end what should not be there."""
        fences = frozenset(key for key in given.fences if _is_key(key))
        if self._fences.get(name) != fences:
            await self._store.write(lambda tx: _note(tx, name, fences))
            self._fences[name] = fences
        overdue = self._overdue(name, given)
        if overdue:
            dead = await self._store.read(lambda connection: strays(connection, name, overdue))
            for key in dead:
                log.warning("orphan_found", task=key[0], attempt=key[1], node=name)
                self._dispatcher.end_stray(name, key)

    def lease_left(self, name: str | None) -> float:
        """Seconds until a node's fences have done their work for certain; 0 for a node that isn't known."""
        known = self._nodes.get(name)
        if known is None:
            return 0.0
        return known.seen + known.row.lease + GRACE - self._now()

    async def once(self) -> None:
        """One look at the nodes that are away: what is ended there for certain moves on."""
        for name in self._nodes.names():
            if self._nodes[name].online or self.lease_left(name) > 0:
                continue
            try:
                if await self._store.read(partial(_movable, name=name)):
                    await self._store.write(partial(move_on, name=name))
            except StorageFull as error:
                log.warning("move_postponed", node=name, error=error.message)

    def _overdue(self, name: str, given: Heartbeat) -> list[Key]:
        """What the node listed for too long although it holds nothing there, as far as memory knows."""
        held = self._ledger.used(name).tasks
        now = self._now()
        before = self._strays.get(name, {})
        listed = {
            key: before.get(key, now) for key in given.attempts if _is_key(key) and held.get(key[0]) != key[1]
        }
        overdue = [key for key, since in listed.items() if now - since >= self._patience][:_MOST]
        self._strays[name] = listed | dict.fromkeys(overdue, now)
        return overdue


def move_on(tx: Tx, name: str) -> list[TaskRow]:
    """Give up every attempt on a node that is away and whose fence has ended it, as its task wants it."""
    moved: list[int] = []
    for found in tx.execute(_lost_on(name)).all():
        log.warning("attempt_given_up", task=found.task, attempt=found.number, node=name, fenced=True)
        _give_up(tx, found, "requeue" if found.on_node_loss == "requeue" else "fail", _fenced(found))
        moved.append(found.task)
    return tx.publish_tasks(moved)


def requeue(tx: Tx, number: int, move: Move) -> TaskRow:
    """Move a task away from a node that is away; raises NotFound or Conflict. With ``force`` also a task
    whose end was asked for, or one that may still run there: whoever forces knows better."""
    found = tx.execute(_CURRENT.where(task.c.id == number)).first()
    if found is None:
        raise no_task(number)
    why_not = _why_not(found, move)
    if why_not is not None:
        raise why_not
    audit = {"act": "requeue", "by": move.by, "task": number, "attempt": found.number, "node": found.node}
    log.warning("audit", **audit, force=move.force)
    sure = _is_fenced(found) and move.lease_left <= 0
    where = f"{found.node} {found.node_state}" if found.node else "unknown after a restore"
    reason = _fenced(found) if sure else f"{where}; given up by operator {move.by}"
    _give_up(tx, found, "requeue", reason, forced=move.force)
    (row,) = tx.publish_tasks([number])
    return row


def _why_not(found: Row[Any], move: Move) -> HakuRiverError | None:
    number = found.task
    if found.state in _ENDED:
        return Conflict(
            f"task {number} has ended already ({found.state})", hint="submit it again", code="ended"
        )
    if move.kept_back and found.state == State.PENDING:
        return None if move.force else _kept_back(number)
    if found.state not in _ON_NODE:
        return Conflict(f"task {number} is on no node ({found.state})", code="not_running")
    if found.node_state == NodeState.ONLINE:
        return Conflict(
            f"{found.node} is online, so task {number} is not lost",
            hint=f"hakuriver task kill {number} ends it",
            code="node_online",
        )
    if move.force:
        return None
    if not _is_fenced(found):
        return Conflict(
            f"nobody can tell whether task {number} still runs on {found.node}",
            hint="--force moves it all the same; it may run twice until that node is back",
            code="not_fenced",
        )
    if move.lease_left > 0:
        return Conflict(
            f"task {number} may run on {found.node} for another {move.lease_left:.0f} s",
            hint="try again then",
            code="lease_not_over",
        )
    return None


def _kept_back(number: int) -> Conflict:
    return Conflict(
        f"task {number} may have run on a node that has not come back since the restore",
        hint="--force lets it go all the same; it may run twice",
        code="awaits_nodes",
    )


_CURRENT: Select[Any] = (
    select(
        attempt.c.task,
        attempt.c.number,
        attempt.c.state,
        attempt.c.node,
        attempt.c.fence,
        attempt.c.intent,
        attempt.c.intent_by,
        attempt.c.held_due_at,
        attempt.c.held_by,
        attempt.c.held_grace,
        task.c.on_node_loss,
        task.c.retries,
        task.c.retried,
        node.c.state.label("node_state"),
    )
    .join(task, (task.c.id == attempt.c.task) & (task.c.attempt == attempt.c.number))
    .outerjoin(node, node.c.name == attempt.c.node)
)


def _lost_on(name: str) -> Select[Any]:
    return _CURRENT.where(
        attempt.c.node == name,
        attempt.c.state.in_(_ON_NODE),
        attempt.c.fence,
        task.c.on_node_loss != "keep",
        node.c.state != str(NodeState.ONLINE),
    ).order_by(attempt.c.task)


def _movable(connection: Connection, name: str) -> bool:
    return connection.execute(_lost_on(name).limit(1)).first() is not None


def _is_fenced(found: Row[Any]) -> bool:
    return bool(found.fence) and found.on_node_loss != "keep"


def _fenced(found: Row[Any]) -> str:
    return f"{found.node} {found.node_state}; fenced"


def _give_up(tx: Tx, found: Row[Any], how: str, reason: str, *, forced: bool = False) -> None:
    """End an attempt that is not heard of any more; a kill that was asked for is reached with that."""
    retry = how == "fail" and found.retried < found.retries
    if found.intent == Intent.KILL and not forced:
        _end(tx, found, State.KILLED, f"killed by {found.intent_by}; {reason}")
    elif how == "fail" and not retry:
        _end(tx, found, State.FAILED, f"{found.node} was lost")
    else:
        _end(tx, found, State.LOST, reason)
        held = {name: getattr(found, name) for name in ("held_due_at", "held_by", "held_grace")}
        why = f"{found.node} was lost" if found.node else f"let go by operator; {reason}"
        retried = found.retried + retry
        why += f"; retry {retried} of {found.retries}" if retry else ""
        again = first_attempt(found.task, found.number + 1, why)
        tx.execute(insert(attempt).values(**again, **held))
        tx.execute(
            update(task)
            .where(task.c.id == found.task)
            .values(attempt=found.number + 1, state=str(State.PENDING), retried=retried)
        )


def _end(tx: Tx, found: Row[Any], state: State, reason: str) -> None:
    tx.execute(
        update(attempt)
        .where(attempt.c.task == found.task, attempt.c.number == found.number)
        .values(state=str(state), reason=reason, ended_at=clock.now(), held_due_at=None)
    )
    tx.execute(update(task).where(task.c.id == found.task).values(state=str(state)))


def _note(tx: Tx, name: str, fences: frozenset[Key]) -> None:
    """Store which attempts on a node have a fence that was just seen to be alive."""
    here = (attempt.c.node == name) & attempt.c.state.in_(_ON_NODE)
    tx.execute(update(attempt).where(here, attempt.c.fence).values(fence=False))
    for number, attempt_number in fences:
        mine = here & (attempt.c.task == number) & (attempt.c.number == attempt_number)
        tx.execute(update(attempt).where(mine).values(fence=True))


def _is_key(key: Key) -> bool:
    return 0 < key[0] < 2**63 and 0 < key[1] < 2**63
