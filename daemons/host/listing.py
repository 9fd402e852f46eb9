"""Lists of tasks: a page at a time, newest first, filtered by what people ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, select

from daemons.host.rows import TASK_VIEWS, newest_of
from daemons.host.schema import attempt, task, task_tag
from hakuriver.errors import UsageError
from hakuriver.lifecycle import ENDED, LIVE, State


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list is limited to; None is no limit. ``states`` is empty for all."""

    states: tuple[str, ...] = ()
    node: str | None = None
    owner: str | None = None
    tag: str | None = None
    batch: int | None = None
    kind: str | None = None
    name: str | None = None
    machine: str | None = None


_STATES = frozenset(str(state) for state in State)


def parse_states(text: str | None) -> tuple[str, ...]:
    """A comma list of states, or ``live`` or ``ended``; raises UsageError that names the wrong one."""
    chosen: set[str] = set()
    for part in (text or "").split(","):
        if part in ("live", "ended"):
            chosen.update(str(state) for state in (LIVE if part == "live" else ENDED))
        elif part in _STATES:
            chosen.add(part)
        elif text:
            raise UsageError(f"there is no state {part!r}", hint=f"live, ended, {', '.join(State)}")
    return tuple(state for state in State if state in chosen)


def page(connection: Connection, wanted: Filter, limit: int, before: int | None) -> str:
    """One page (``views.TaskPage``) as JSON text; ``before`` is the cursor."""
    conditions = _conditions(wanted)
    if before is not None:
        conditions.append(task.c.id < before)
    if wanted.states:
        chosen = select(newest_of(wanted.states, limit + 1, *conditions).c.id)
    else:
        chosen = select(task.c.id).where(*conditions).order_by(task.c.id.desc()).limit(limit + 1)
    ids = sorted(connection.execute(chosen).scalars(), reverse=True)
    shown = ids[:limit]
    items = _views(connection, shown)
    following = f'"{shown[-1]}"' if len(ids) > limit else "null"
    return f'{{"items":[{",".join(items)}],"next":{following}}}'


def _views(connection: Connection, ids: Sequence[int]) -> list[str]:
    rows = connection.execute(TASK_VIEWS.add_columns(task.c.id).where(task.c.id.in_(ids)))
    found = {row.id: row[0] for row in rows}
    return [found[each] for each in ids]


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    equal = {"owner": task.c.owner, "batch": task.c.batch, "kind": task.c.kind, "name": task.c.name}
    equal["machine"] = task.c.machine
    found = [
        column == getattr(wanted, name) for name, column in equal.items() if getattr(wanted, name) is not None
    ]
    if wanted.node is not None:
        there = select(attempt.c.task).where(
            attempt.c.task == task.c.id, attempt.c.number == task.c.attempt, attempt.c.node == wanted.node
        )
        found.append(there.exists())
    if wanted.tag is not None:
        found.append(task.c.id.in_(select(task_tag.c.task).where(task_tag.c.tag == wanted.tag)))
    return found
