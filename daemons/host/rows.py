"""Rows as the host's loops need them, and tasks as clients see them.

A task's view is made by SQLite itself, as JSON text: the same expression serves lists, the watch stream
and snapshots of a hundred thousand tasks without holding Python's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    and_,
    case,
    func,
    literal,
    select,
    union_all,
)

from daemons.host.schema import allocation, attempt, node, task, task_after
from hakuriver.lifecycle import ENDED, ON_NODE, Intent, NodeState, State

_CHUNK = 500  # ids in one statement
_ON_NODE = [str(state) for state in ON_NODE]
_ONLY_BY_FORCE = "; only `hakuriver task requeue --force` can move it"


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task with its current attempt and what that was given. ``target_gpus``, ``wants`` and ``devices`` are
    JSON texts, ``needs`` is how many tasks must complete before it may start."""

    id: int
    attempt: int
    state: str
    owner: str
    executor: str
    cores: int
    memory: int
    target_node: str | None
    target_numa: int | None
    target_gpus: str
    wants: str
    priority: int
    batch: int
    max_running: int | None
    time_limit: float | None
    needs: int
    reason: str
    node: str | None
    acked: int | None
    intent: str
    intent_version: int
    intent_sent: int
    held_due_at: str | None
    hold_by: str | None
    assigned_at: str | None
    started_at: str | None
    devices: str | None
    numa: int | None
    view: str

    @property
    def key(self) -> tuple[int, int]:
        """Which attempt it is."""
        return self.id, self.attempt


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as it is stored; ``facts`` is the JSON of ``nodewire.NodeFacts``."""

    name: str
    runner: str
    address: str
    state: str
    reason: str
    drained: bool
    drain_reason: str | None
    registered_at: str
    seen_at: str | None
    facts: str
    lease: float


_FROM = (
    task.join(attempt, and_(attempt.c.task == task.c.id, attempt.c.number == task.c.attempt))
    .outerjoin(allocation, and_(allocation.c.task == task.c.id, allocation.c.attempt == task.c.attempt))
    .outerjoin(node, node.c.name == attempt.c.node)
)
_ended = task.c.state.in_([str(state) for state in ENDED])
_held = attempt.c.held_due_at.is_not(None)
_open_intent = and_(attempt.c.intent_version > attempt.c.intent_done, ~_ended)
_away = and_(
    ~_ended, node.c.state.in_([str(NodeState.UNREACHABLE), str(NodeState.OFFLINE), str(NodeState.REMOVED)])
)
_stuck = and_(_away, task.c.on_node_loss != "keep", ~attempt.c.fence, attempt.c.state.in_(_ON_NODE))


_pending = task.c.state == str(State.PENDING)
_outstanding = task_after.c.task == task.c.id
_NEEDS = case(
    (task.c.after == "[]", literal(0)),
    else_=select(func.count()).select_from(task_after).where(_outstanding).scalar_subquery(),
)
_needed = select(func.group_concat(task_after.c.needs, ", ")).where(_outstanding).scalar_subquery()


def _object(fields: dict[str, ColumnElement[Any]]) -> ColumnElement[str]:
    return func.json_object(*[part for name, value in fields.items() for part in (literal(name), value)])


def _task_json() -> ColumnElement[str]:
    empty = literal("[]")
    return _object(
        {
            "id": task.c.id,
            "batch": task.c.batch,
            "kind": task.c.kind,
            "name": task.c.name,
            "tags": func.json(task.c.tags),
            "owner": task.c.owner,
            "state": task.c.state,
            "reason": case(
                (_stuck, node.c.name + " is " + node.c.state + _ONLY_BY_FORCE),
                (_away, node.c.name + " is " + node.c.state),
                (and_(_pending, attempt.c.hold_by.is_not(None)), "held by " + attempt.c.hold_by),
                (and_(_pending, _NEEDS > 0), "waiting for the end of " + _needed),
                else_=attempt.c.reason,
            ),
            "command": func.json(task.c.command),
            "target": task.c.target,
            "node": attempt.c.node,
            "numa": allocation.c.numa,
            "gpus": func.json(func.coalesce(allocation.c.gpus, empty)),
            "gpu_uuids": func.json(func.coalesce(allocation.c.device_ids, empty)),
            "cores": task.c.cores / literal(1000.0),
            "memory": task.c.memory,
            "on_node_loss": task.c.on_node_loss,
            "priority": task.c.priority,
            "time_limit": task.c.time_limit,
            "retries": task.c.retries,
            "retried": task.c.retried,
            "after": func.json(task.c.after),
            "on_hold": case((attempt.c.hold_by.is_(None), func.json("false")), else_=func.json("true")),
            "batch_index": task.c.batch_index,
            "batch_size": task.c.batch_size,
            "max_running": task.c.max_running,
            "wants": func.json(task.c.wants),
            "executor": func.coalesce(attempt.c.executor, task.c.executor),
            "container": task.c.container,
            "image": task.c.image,
            "version": attempt.c.version,
            "image_digest": attempt.c.image_digest,
            "workdir": task.c.workdir,
            "attempt": task.c.attempt,
            "exit_code": attempt.c.exit_code,
            "signal": attempt.c.signal,
            "error": attempt.c.error,
            "oom_events": attempt.c.oom_events,
            "intent": case(
                (_held, literal(str(Intent.KILL))),
                (and_(_open_intent, attempt.c.intent == str(Intent.RUN)), literal("resume")),
                (_open_intent, attempt.c.intent),
            ),
            "intent_by": case((_held, attempt.c.held_by), (_open_intent, attempt.c.intent_by)),
            "intent_due_at": attempt.c.held_due_at,
            "created_at": task.c.created_at,
            "assigned_at": attempt.c.assigned_at,
            "started_at": attempt.c.started_at,
            "ended_at": attempt.c.ended_at,
        }
    )


_ATTEMPT_JSON = _object(
    {
        "attempt": attempt.c.number,
        **{
            name: attempt.c[name]
            for name in ("state", "reason", "node", "executor", "version", "image_digest")
        },
        **{name: attempt.c[name] for name in ("exit_code", "signal", "error", "oom_events")},
        **{name: attempt.c[name] for name in ("assigned_at", "started_at", "ended_at")},
    }
)
TASK_JSON = _task_json()
_FACTS = (
    task.c.id,
    task.c.attempt,
    task.c.state,
    task.c.owner,
    task.c.executor,
    task.c.cores,
    task.c.memory,
    task.c.target_node,
    task.c.target_numa,
    task.c.target_gpus,
    task.c.wants,
    task.c.priority,
    task.c.batch,
    task.c.max_running,
    task.c.time_limit,
    _NEEDS,
    attempt.c.reason,
    attempt.c.node,
    attempt.c.acked,
    attempt.c.intent,
    attempt.c.intent_version,
    attempt.c.intent_sent,
    attempt.c.held_due_at,
    attempt.c.hold_by,
    attempt.c.assigned_at,
    attempt.c.started_at,
    allocation.c.device_ids,
    allocation.c.numa,
)
TASK_ROWS: Select[Any] = select(*_FACTS, TASK_JSON).select_from(_FROM)
TASK_FACTS: Select[Any] = select(*_FACTS, literal("")).select_from(_FROM)
"""The same without the view, for loops that show nothing."""
TASK_VIEWS: Select[Any] = select(TASK_JSON).select_from(_FROM)
NODE_ROWS: Select[Any] = select(node)


def load_tasks(connection: Connection, ids: Sequence[int]) -> list[TaskRow]:
    """The rows of tasks in the order of their ids; those that don't exist are left out."""
    found: dict[int, TaskRow] = {}
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        for row in connection.execute(TASK_ROWS.where(task.c.id.in_(chunk))):
            found[row[0]] = TaskRow(*row)
    return [found[each] for each in ids if each in found]


def load_facts(connection: Connection, states: Iterable[str]) -> list[TaskRow]:
    """The rows, without views, of all tasks in some states, oldest first."""
    chosen = TASK_FACTS.where(task.c.state.in_(list(states))).order_by(task.c.id)
    return [TaskRow(*row) for row in connection.execute(chosen)]


def load_nodes(connection: Connection, name: str | None = None) -> list[NodeRow]:
    """All nodes by name, or the one with a name."""
    chosen = NODE_ROWS if name is None else NODE_ROWS.where(node.c.name == name)
    return [NodeRow(**row._mapping) for row in connection.execute(chosen.order_by(node.c.name))]


def task_views(connection: Connection, ids: Sequence[int]) -> dict[int, str]:
    """Tasks as JSON with all their attempts; those that don't exist are left out."""
    found: dict[int, str] = {}
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        attempts: dict[int, list[str]] = {}
        tried = select(attempt.c.task, _ATTEMPT_JSON).where(attempt.c.task.in_(chunk))
        for number, view in connection.execute(tried.order_by(attempt.c.task, attempt.c.number)):
            attempts.setdefault(number, []).append(view)
        for number, view in connection.execute(
            TASK_VIEWS.with_only_columns(task.c.id, TASK_JSON).where(task.c.id.in_(chunk))
        ):
            found[number] = f'{view[:-1]},"attempts":[{",".join(attempts[number])}]}}'
    return found


def newest_of(states: Sequence[str], limit: int, *conditions: ColumnElement[bool]) -> Subquery:
    """Ids of the newest tasks in some states; each state's index gives its own, so the cost is bounded."""
    parts = [
        select(
            select(task.c.id)
            .where(task.c.state == state, *conditions)
            .order_by(task.c.id.desc())
            .limit(limit)
            .subquery()
        )
        for state in states
    ]
    every = union_all(*parts).subquery()
    return select(every.c.id).order_by(every.c.id.desc()).limit(limit).subquery()
