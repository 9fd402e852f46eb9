"""What a restored host learns from its nodes: attempts that began after the backup was taken.

Only reports that a runner tells again in a new epoch are looked at, and only for tasks that the backup knew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Row, insert, select, update

from daemons.common.log import Log
from daemons.host import clock
from daemons.host.intents import first_version
from daemons.host.recovery import restored_last
from daemons.host.schema import allocation, attempt, task
from daemons.host.store import Tx
from daemons.host.submit import first_attempt
from hakuriver.lifecycle import LIVE, Intent, State
from hakuriver.nodewire import Given, Report

_LIVE = [str(state) for state in LIVE]
_MOST_ATTEMPTS = 2**31
log = Log("adoption")


def runs(reports: Sequence[Report]) -> Iterator[list[Report]]:
    """The reports in their order, cut where a task goes on under another number: the first must be
    applied before the second can be."""
    run: list[Report] = []
    numbers: dict[int, int] = {}
    for report in reports:
        if numbers.setdefault(report.task, report.attempt) != report.attempt:
            yield run
            run, numbers = [], {report.task: report.attempt}
        run.append(report)
    if run:
        yield run


def adopt(tx: Tx, name: str, reports: Iterable[Report]) -> set[int]:
    """Place on a node what it tells again and the database believes to wait, or knows only an earlier attempt
    of; the tasks that are changed and not announced yet."""
    told = [report for report in reports if report.given is not None]
    last = restored_last(tx) if told else 0
    changed: set[int] = set()
    for report in told:
        if not (0 < report.task <= last and 0 < report.attempt < _MOST_ATTEMPTS):
            continue
        found = tx.execute(_known(report)).first()
        if found is None:
            continue
        if report.attempt > found.current:
            _supersede(tx, name, report, found)
        elif not (report.attempt == found.current and found.state == State.PENDING and found.node is None):
            if found.node == name:
                _agree(tx, report)
            continue
        _place(tx, name, report, found)
        _agree(tx, report)
        changed.add(report.task)
        log.info("attempt_adopted", task=report.task, attempt=report.attempt, node=name, state=report.state)
    return changed


def _known(report: Report) -> Any:
    return (
        select(task.c.attempt.label("current"), task.c.cores, task.c.memory, attempt.c.state, attempt.c.node)
        .outerjoin(attempt, (attempt.c.task == task.c.id) & (attempt.c.number == report.attempt))
        .where(task.c.id == report.task)
    )


def _supersede(tx: Tx, name: str, report: Report, found: Row[Any]) -> None:
    """Make room for an attempt that came after the one that the backup knew; its end is not known."""
    reason = f"{name} has the later attempt {report.attempt}, which began after the backup"
    tx.execute(
        update(attempt)
        .where(attempt.c.task == report.task, attempt.c.number == found.current, attempt.c.state.in_(_LIVE))
        .values(state=str(State.LOST), reason=reason, ended_at=clock.now(), held_due_at=None)
    )
    base = first_version(tx.identity.epoch)
    versions = {"intent_version": base, "intent_sent": base, "intent_done": base}
    tx.execute(insert(attempt).values(**first_attempt(report.task, report.attempt, "") | versions))


def _place(tx: Tx, name: str, report: Report, found: Row[Any]) -> None:
    """The attempt is on the node, which has its order: nothing is sent."""
    given = report.given or Given()
    at = clock.text(report.started_at or report.at)
    tx.execute(
        update(attempt)
        .where(attempt.c.task == report.task, attempt.c.number == report.attempt)
        .values(state=str(State.ASSIGNED), reason="", node=name, assigned_at=at, acked=0)
    )
    tx.execute(
        update(task).where(task.c.id == report.task).values(attempt=report.attempt, state=str(State.ASSIGNED))
    )
    tx.execute(
        insert(allocation).values(
            task=report.task,
            attempt=report.attempt,
            node=name,
            numa=given.numa,
            cores=found.cores,
            memory=found.memory,
            device_ids=json.dumps(given.gpu_uuids),
            gpus=json.dumps(given.gpus),
        )
    )


def _agree(tx: Tx, report: Report) -> None:
    """A pause or its end that the backup doesn't know is in force all the same."""
    if report.state not in (State.RUNNING, State.PAUSED):
        return
    tx.execute(
        update(attempt)
        .where(
            attempt.c.task == report.task,
            attempt.c.number == report.attempt,
            attempt.c.intent_version == attempt.c.intent_sent,
            attempt.c.intent != str(Intent.KILL),
        )
        .values(intent=str(Intent.PAUSE if report.state is State.PAUSED else Intent.RUN))
    )
