"""From stored rows to what the scheduler looks at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from daemons.host.rows import TaskRow
from daemons.host.scheduling.model import Holding, Lane, Shape
from hakuriver.lifecycle import ON_NODE, State
from hakuriver.target import Target

SLACK = 60.0
"""Seconds that an end may take after the time limit is over."""
_ON_NODE = frozenset(str(state) for state in ON_NODE)


def make_shape(
    target: Target | None,
    *,
    cores: int,
    memory: int,
    executor: str,
    wants: Mapping[str, Any],
    time_limit: float | None,
) -> Shape:
    """What a task asks for; ``wants`` is a ``views.TaskWants``, ``cores`` in millicores."""
    count: int = wants.get("gpu_count", 0)
    gpus = () if target is None else target.gpus
    return Shape(
        None if target is None else target.node,
        None if target is None else target.numa,
        gpus,
        cores,
        memory,
        executor,
        count,
        wants.get("gpu_model", ""),
        wants.get("gpu_memory", 0),
        tuple(sorted(wants.get("labels", {}).items())),
        wants.get("placement") or ("pack" if count or gpus else "spread"),
        None if time_limit is None else time_limit + SLACK,
    )


def lane_of(row: TaskRow) -> Lane:
    """What a waiting task asks for, and what it shares its turn with."""
    gpus = tuple(json.loads(row.target_gpus))
    shape = make_shape(
        None if row.target_node is None else Target(row.target_node, row.target_numa, gpus),
        cores=row.cores,
        memory=row.memory,
        executor=row.executor,
        wants=json.loads(row.wants),
        time_limit=row.time_limit,
    )
    batch = None if row.max_running is None else (row.batch, row.max_running)
    return Lane(shape, row.owner, row.priority, batch)


def holding_of(row: TaskRow, now: float) -> Holding | None:
    """What the current attempt of a task holds, None when nothing; ``now`` is the time of day here."""
    if row.state not in _ON_NODE or row.node is None:
        return None
    return Holding(
        row.attempt,
        row.node,
        row.cores,
        row.memory,
        tuple(json.loads(row.devices or "[]")),
        row.numa,
        row.owner,
        None if row.max_running is None else row.batch,
        _ends_at(row, now),
    )


def _ends_at(row: TaskRow, now: float) -> float | None:
    """When a running task with a time limit is gone for certain, by the wall clock. A paused one may stay."""
    if row.time_limit is None or row.state == State.PAUSED or row.assigned_at is None:
        return None
    assigned = _seconds(row.assigned_at)
    started = assigned if row.started_at is None else _seconds(row.started_at)
    if not assigned <= started <= now:
        started = now  # the clock of its node is another one than ours
    return started + row.time_limit + SLACK


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
