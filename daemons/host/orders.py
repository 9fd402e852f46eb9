"""What an attempt's runner still has to be told, read from the store, and what its answers change there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update

from daemons.host import clock, intents
from daemons.host.environments.catalog import reference_of
from daemons.host.ledger import Key
from daemons.host.schema import allocation, attempt, meta, task
from daemons.host.store import Tx
from hakuriver.lifecycle import ENDED, Intent, State
from hakuriver.nodewire import AttemptOrder, AttemptSpec, EnvironmentRef, IntentOrder
from hakuriver.target import Target
from hakuriver.views import TaskWants
from hakuriver.wire import Mount

DEFAULT_GRACE = 10.0
_ENDED = [str(state) for state in ENDED]
_SPEC_WANTS = tuple(name for name in TaskWants.__annotations__ if name in AttemptSpec.model_fields)
"""What a task wants besides its place, and its node must know."""


@dataclass(frozen=True, slots=True)
class Job:
    """The next thing to tell: an order, which carries the newest intent, or an intent alone."""

    key: Key
    node: str
    order: AttemptOrder | None
    intent: IntentOrder | None


def load_job(connection: Connection, key: Key) -> Job | None:
    """What this attempt needs now, None when nothing."""
    found = connection.execute(
        select(attempt.c.node, attempt.c.state, attempt.c.acked, attempt.c.intent, attempt.c.intent_version)
        .add_columns(attempt.c.intent_sent, attempt.c.intent_by, attempt.c.intent_grace)
        .where(attempt.c.task == key[0], attempt.c.number == key[1])
    ).first()
    if found is None or found.node is None or found.state in (*_ENDED, State.PENDING):
        return None
    intent = None
    if found.intent_version > found.intent_sent:
        grace = DEFAULT_GRACE if found.intent_grace is None else found.intent_grace
        intent = IntentOrder(
            version=found.intent_version, intent=Intent(found.intent), by=found.intent_by or "", grace=grace
        )
    if found.acked is None:
        return Job(key, found.node, _load_order(connection, key, intent), intent)
    return Job(key, found.node, None, intent) if intent is not None else None


def strays(connection: Connection, name: str, keys: Sequence[Key]) -> list[Key]:
    """Those of a node's attempts that should not be there: they are over for the host, another node has them,
    or it knows nothing of their task. What a restored host has still to be told of is none."""
    ids = [key[0] for key in keys]
    current = {
        row[0]: row[1]
        for row in connection.execute(select(task.c.id, task.c.attempt).where(task.c.id.in_(ids)))
    }
    rows = connection.execute(
        select(attempt.c.task, attempt.c.number, attempt.c.state, attempt.c.node).where(
            attempt.c.task.in_(ids)
        )
    )
    known = {(row[0], row[1]): (row[2] in _ENDED or row[3] not in (None, name)) for row in rows}
    return [key for key in keys if key[0] not in current or key[1] < current[key[0]] or known.get(key, False)]


def load_stray(connection: Connection, key: Key, *, name: str) -> Job | None:
    """The end of an attempt that should not be on a node; None when it should."""
    if not strays(connection, name, [key]):
        return None
    mine = (attempt.c.task == key[0]) & (attempt.c.number == key[1])
    version = connection.execute(select(attempt.c.intent_version).where(mine)).scalar() or 0
    epoch = connection.execute(select(meta.c.value).where(meta.c.key == "epoch")).scalar_one()
    newer = max(version, intents.first_version(int(epoch))) + 1
    intent = IntentOrder(version=newer, intent=Intent.KILL, by="the host", grace=DEFAULT_GRACE)
    return Job(key, name, None, intent)


def _load_order(connection: Connection, key: Key, intent: IntentOrder | None) -> AttemptOrder:
    row = connection.execute(
        select(task, allocation.c.node, allocation.c.numa, allocation.c.device_ids, allocation.c.gpus)
        .add_columns(attempt.c.executor.label("by"), attempt.c.version)
        .join(allocation, (allocation.c.task == task.c.id) & (allocation.c.attempt == key[1]))
        .join(attempt, (attempt.c.task == task.c.id) & (attempt.c.number == key[1]))
        .where(task.c.id == key[0])
    ).one()
    names = ("cluster", "epoch")
    identity = {
        each.key: each.value for each in connection.execute(select(meta).where(meta.c.key.in_(names)))
    }
    environment = reference_of(connection, row.container, row.version)
    spec = _spec(row._mapping, key[1], environment)
    return AttemptOrder(
        cluster=identity["cluster"],
        epoch=int(identity["epoch"]),
        digest=spec.digest(),
        spec=spec,
        intent=intent,
    )


def _spec(row: Any, number: int, environment: EnvironmentRef | None) -> AttemptSpec:
    gpus = json.loads(row["gpus"])
    mounts = json.loads(row["mounts"]) if row["mounts"] is not None else None
    wants = json.loads(row["wants"])
    return AttemptSpec(
        task=row["id"],
        attempt=number,
        kind=row["kind"],
        owner=row["owner"],
        command=json.loads(row["command"]),
        env=json.loads(row["env"]),
        workdir=row["workdir"],
        executor=row["by"] or row["executor"],
        container=row["container"],
        image=row["image"],
        environment=environment,
        cores=row["cores"] / 1000,
        memory=row["memory"],
        target=str(Target(row["node"], row["numa"], tuple(gpus))),
        numa=row["numa"],
        gpus=gpus,
        gpu_uuids=json.loads(row["device_ids"]),
        mounts=None if mounts is None else [Mount.model_validate(each) for each in mounts],
        privileged=row["privileged"],
        stdin=row["stdin"],
        fenced=row["on_node_loss"] != "keep",
        time_limit=row["time_limit"],
        batch_index=row["batch_index"],
        batch_size=row["batch_size"],
        **{name: wants[name] for name in _SPEC_WANTS if name in wants},
    )


def acknowledge(tx: Tx, job: Job, version: int | None) -> None:
    """The runner has it in its journal; ``version`` is the journal's, for an order."""
    number, attempt_number = job.key
    values: dict[str, Any] = {}
    if version is not None:
        values["acked"] = version
    if job.intent is not None:
        values["intent_sent"] = job.intent.version
    mine = (attempt.c.task == number) & (attempt.c.number == attempt_number)
    tx.execute(update(attempt).where(mine).values(**values))
    quiet = mine & (attempt.c.state == str(State.ASSIGNED)) & (attempt.c.reason != "")
    if tx.execute(update(attempt).where(quiet).values(reason="")).rowcount:
        tx.publish_tasks([number])


def say(tx: Tx, keys: Sequence[Key], reason: str) -> None:
    """Why attempts that were assigned don't go on."""
    changed: list[int] = []
    for number, attempt_number in keys:
        chosen = update(attempt).where(
            attempt.c.task == number,
            attempt.c.number == attempt_number,
            attempt.c.state == str(State.ASSIGNED),
            attempt.c.reason != reason,
        )
        if tx.execute(chosen.values(reason=reason)).rowcount:
            changed.append(number)
    tx.publish_tasks(changed)


def refused(tx: Tx, job: Job, why: str) -> None:
    """A definite refusal: of an order it fails the attempt, which never started; an intent is dropped."""
    if job.order is not None:
        _fail(tx, job.key, f"{job.node} refused it: {why}")
    elif job.intent is not None:
        acknowledge(tx, job, None)
        intents.refuse(tx, *job.key, job.intent.version, why)


def _fail(tx: Tx, key: Key, reason: str) -> None:
    chosen = update(attempt).where(
        attempt.c.task == key[0],
        attempt.c.number == key[1],
        attempt.c.state.in_([str(State.ASSIGNED), str(State.STOPPING)]),
    )
    now = clock.now()
    ended = {"reason": reason, "error": reason, "ended_at": now, "held_due_at": None}
    if tx.execute(chosen.values(state=str(State.FAILED), **ended)).rowcount:
        tx.execute(update(task).where(task.c.id == key[0]).values(state=str(State.FAILED)))
        tx.publish_tasks([key[0]])
