"""What became of attempts, as runners tell it: each report is applied once, in order, or refused for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import bindparam, insert, select, update

from daemons.common.log import Log
from daemons.host import clock
from daemons.host.adoption import adopt, runs
from daemons.host.followups import follow
from daemons.host.nodes import check_runner
from daemons.host.schema import attempt, node, task
from daemons.host.store import Tx
from daemons.host.submit import first_attempt
from hakuriver.errors import NotFound
from hakuriver.lifecycle import ENDED, Intent, State, apply_report
from hakuriver.nodewire import Report, ReportAnswer, ReportBatch, ReportResult

log = Log("reports")


@dataclass(frozen=True, slots=True)
class Facts:
    """An attempt as reports see it; the fields are columns of ``attempt``, but for ``current``."""

    task: int
    number: int
    node: str | None
    state: State
    reason: str
    executor: str | None
    exit_code: int | None
    signal: int | None
    error: str | None
    oom_events: int
    started_at: str | None
    ended_at: str | None
    image_digest: str | None
    report_sequence: int
    intent: Intent
    intent_version: int
    intent_done: int
    intent_by: str | None
    held_due_at: str | None
    held_by: str | None
    held_grace: float | None
    current: bool


_COLUMNS = [attempt.c[name] for name in Facts.__dataclass_fields__ if name != "current"]
_SAVED = (
    *("state", "reason", "executor", "exit_code", "signal", "error", "oom_events", "started_at", "ended_at"),
    *("image_digest", "report_sequence", "intent_done", "held_due_at", "held_by", "held_grace"),
)
_SHOWN = tuple(name for name in _SAVED if name != "report_sequence")


def apply_batch(tx: Tx, name: str, batch: ReportBatch) -> ReportAnswer:
    """Apply a node's reports in their order; raises NotFound or Conflict when it isn't that node's runner."""
    owner = tx.execute(select(node.c.runner).where(node.c.name == name)).scalar()
    if owner is None:
        raise NotFound(f"there is no node {name}", hint="register first", code="unknown_node")
    check_runner(name, owner, batch.runner)
    results: list[ReportResult] = []
    for run in runs(batch.reports):
        results += _apply_run(tx, name, run)
    return ReportAnswer(results=results)


def _apply_run(tx: Tx, name: str, reports: Sequence[Report]) -> list[ReportResult]:
    """Apply reports of which none depends on the consequences of another; announces what they change."""
    adopted = adopt(tx, name, reports)
    before = _load(tx, {report.task for report in reports})
    now = dict(before)
    results: list[ReportResult] = []
    requeued: list[Facts] = []
    for report in reports:
        key = (report.task, report.attempt)
        result, message, after = apply(now.get(key), report, name)
        if after is not None:
            now[key] = after
            if result == "applied" and after.state is State.PENDING:
                requeued.append(after)
        if result == "refused":
            log.warning("report_refused", task=report.task, attempt=report.attempt, node=name, why=message)
        results.append(
            ReportResult(
                task=report.task,
                attempt=report.attempt,
                sequence=report.sequence,
                result=result,
                message=message,
            )
        )
    _save(tx, before, now)
    for each in requeued:
        _requeue(tx, each)
    follow(tx, [key[0] for key, facts in now.items() if facts.state in ENDED and facts != before[key]])
    tx.publish_tasks(sorted(adopted | {key[0] for key in now if _visible(before[key], now[key])}))
    return results


def apply(facts: Facts | None, report: Report, node_name: str) -> tuple[Any, str, Facts | None]:
    """What a report does to an attempt: (result, message, the attempt afterwards if it changed). Pure."""
    if facts is None and report.given is not None:
        return "refused", f"the host, restored from a backup, knows no task {report.task}", None
    if facts is None or facts.node != node_name:
        return "refused", f"attempt {report.task}.{report.attempt} is not on {node_name}", None
    if report.sequence <= facts.report_sequence:
        return "duplicate", "", None
    if report.sequence > facts.report_sequence + 1 and report.given is None:
        log.warning(
            "reports_missing",
            task=facts.task,
            attempt=facts.number,
            last=facts.report_sequence,
            got=report.sequence,
        )
    seen = replace(facts, report_sequence=report.sequence)
    if not facts.current:
        return "refused", "the task has a newer attempt", seen
    state = apply_report(facts.state, report.state)
    if state is None:
        return "refused", f"an attempt can't go from {facts.state} to {report.state}", seen
    return "applied", "", _changed(seen, state, report)


def _changed(facts: Facts, state: State, report: Report) -> Facts:
    """The attempt with everything that a legal report says."""
    at = clock.text(report.at)
    started = facts.started_at
    if report.started_at is not None:
        started = clock.text(report.started_at)
    elif started is None and report.state is State.RUNNING:
        started = at
    reason = facts.reason if state is State.STOPPING else report.reason
    if state is State.PENDING:
        if facts.intent is Intent.KILL:
            state, reason = State.KILLED, f"killed by {facts.intent_by} before it started"
        else:
            reason = report.reason or "the node did not start it"
    elif state is State.KILLED and not reason:
        reason = f"killed by {facts.intent_by}" if facts.intent_by else ""
    over = state in ENDED or state is State.PENDING
    ended = clock.text(report.ended_at or report.at) if over else None
    return replace(
        facts,
        state=state,
        reason=reason,
        executor=report.executor or facts.executor,
        exit_code=report.exit_code if report.exit_code is not None else facts.exit_code,
        signal=report.signal if report.signal is not None else facts.signal,
        error=report.error if report.error is not None else facts.error,
        oom_events=max(report.oom_events, facts.oom_events),
        started_at=started,
        ended_at=ended,
        image_digest=report.image or facts.image_digest,
        intent_done=min(max(report.intent_version or 0, facts.intent_done), facts.intent_version),
        held_due_at=None if state in ENDED else facts.held_due_at,
        current=state is not State.PENDING,
    )


def _load(tx: Tx, tasks: set[int]) -> dict[tuple[int, int], Facts]:
    """All attempts of the tasks that reports speak of."""
    ids = sorted(number for number in tasks if 0 < number < 2**63)
    found: dict[tuple[int, int], Facts] = {}
    for start in range(0, len(ids), 500):
        rows = tx.execute(
            select(*_COLUMNS, (task.c.attempt == attempt.c.number).label("current"))
            .join(task, task.c.id == attempt.c.task)
            .where(attempt.c.task.in_(ids[start : start + 500]))
        )
        for row in rows:
            values = row._asdict()
            values |= {"state": State(values["state"]), "intent": Intent(values["intent"])}
            values["current"] = bool(values["current"])
            found[row.task, row.number] = Facts(**values)
    return found


def _visible(before: Facts, after: Facts) -> bool:
    return any(getattr(before, name) != getattr(after, name) for name in _SHOWN)


def _save(tx: Tx, before: dict[tuple[int, int], Facts], now: dict[tuple[int, int], Facts]) -> None:
    changed = [facts for key, facts in now.items() if facts != before[key]]
    if not changed:
        return
    heard = clock.now()
    tx.execute(
        update(attempt)
        .where(attempt.c.task == bindparam("b_task"), attempt.c.number == bindparam("b_number"))
        .values({name: bindparam(f"b_{name}") for name in (*_SAVED, "told_at")}),
        [
            {"b_task": each.task, "b_number": each.number, "b_told_at": heard if each.ended_at else None}
            | {f"b_{name}": _plain(getattr(each, name)) for name in _SAVED}
            for each in changed
        ],
    )
    moved = [each for each in changed if each.state != before[each.task, each.number].state]
    if moved:
        tx.execute(
            update(task).where(task.c.id == bindparam("b_task")).values(state=bindparam("b_state")),
            [{"b_task": each.task, "b_state": str(each.state)} for each in moved],
        )


def _requeue(tx: Tx, burnt: Facts) -> None:
    """A new attempt in place of one that never started and never will under its number."""
    following = burnt.number + 1
    row = first_attempt(burnt.task, following, f"not started on {burnt.node}: {burnt.reason}")
    held = {name: getattr(burnt, name) for name in ("held_due_at", "held_by", "held_grace")}
    tx.execute(insert(attempt).values(**row, **held))
    tx.execute(update(task).where(task.c.id == burnt.task).values(attempt=following))
    log.info("attempt_not_started", task=burnt.task, attempt=burnt.number, node=burnt.node, why=burnt.reason)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, State) else value
