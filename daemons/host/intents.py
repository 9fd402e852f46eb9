"""What people want of tasks that exist: end, pause, go on. Decided by pure functions, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import bindparam, select, update

from daemons.host import clock
from daemons.host.rows import TaskRow, load_tasks
from daemons.host.schema import attempt, task
from daemons.host.store import Tx
from hakuriver.errors import Conflict, HakuRiverError, NotFound
from hakuriver.fields import Verb
from hakuriver.lifecycle import ENDED, Intent, State, allowed

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Current:
    """The current attempt of a task, as far as intents look at it and change it."""

    task: int
    number: int
    node: str | None
    state: State
    reason: str
    ended_at: str | None
    intent: Intent
    intent_version: int
    intent_done: int
    intent_by: str | None
    intent_grace: float | None
    held_due_at: str | None
    held_by: str | None
    held_grace: float | None
    hold_by: str | None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


_COLUMNS = [attempt.c[name] for name in Current.__dataclass_fields__]
_SAVED = [name for name in Current.__dataclass_fields__ if name not in ("task", "number", "node")]


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody wants: ``grace`` and ``delay`` (seconds) are a kill's."""

    verb: Verb
    by: str
    grace: float = 0
    delay: float = 0


def first_version(epoch: int) -> int:
    """The version that an attempt's intents begin at in a restored database: a runner, which ignores what is
    not newer than what it has, may know intents that the backup doesn't."""
    return epoch * 1000


def no_task(number: int) -> NotFound:
    """The error for an id that was never given."""
    return NotFound(f"there is no task {number}", hint="hakuriver task list shows the newest")


def carry_out(tx: Tx, numbers: Sequence[int], ask: Ask) -> list[TaskRow | HakuRiverError]:
    """Do what is asked of each task; in the order of ``numbers`` the task afterwards, or why not."""
    before = _load(tx, numbers)
    after: dict[int, Current] = {}
    refused: dict[int, HakuRiverError] = {}
    for number in dict.fromkeys(numbers):
        try:
            if number not in before:
                raise no_task(number)
            after[number] = decide(before[number], ask)
        except HakuRiverError as error:
            refused[number] = error
    rows = {row.id: row for row in _save(tx, [after[each] for each in after if after[each] != before[each]])}
    rows |= {row.id: row for row in load_tasks(tx.connection, [each for each in after if each not in rows])}
    return [refused.get(number) or rows[number] for number in numbers]


def carry_out_one(tx: Tx, number: int, ask: Ask) -> TaskRow:
    """The same for one task; raises NotFound or Conflict."""
    (outcome,) = carry_out(tx, [number], ask)
    if isinstance(outcome, HakuRiverError):
        raise outcome
    return outcome


def kill_due(tx: Tx, number: int, due: str) -> None:
    """Carry out a held kill, if it is still the one that was held; raises NotFound."""
    found = _load(tx, [number]).get(number)
    if found is None:
        raise no_task(number)
    if found.held_due_at == due and not found.ended:
        _save(tx, [_kill_now(found, found.held_by or "", found.held_grace or 0)])


def refuse(tx: Tx, number: int, attempt_number: int, version: int, why: str) -> None:
    """An attempt's node refused an intent for good: it counts as dealt with, and the task says so."""
    found = _load(tx, [number]).get(number)
    if found is None or (found.number, found.intent_version) != (attempt_number, version) or found.ended:
        return
    verb = {Intent.KILL: "end", Intent.PAUSE: "pause", Intent.RUN: "resume"}[found.intent]
    in_force = Intent.PAUSE if found.state is State.PAUSED else Intent.RUN
    intent = found.intent if found.intent is Intent.KILL else in_force
    reason = f"{found.node} refused to {verb} it: {why}"
    _save(tx, [replace(found, intent=intent, intent_done=version, reason=reason)])


def decide(found: Current, ask: Ask) -> Current:
    """The attempt once an intent is taken in; the same when nothing changes. Raises Conflict (pure)."""
    if ask.verb == "kill":
        return _kill(found, ask)
    if ask.verb == "unkill":
        return _unkill(found)
    if ask.verb in ("hold", "release"):
        return _hold(found, ask)
    _check_on_node(found)
    wanted = Intent.PAUSE if ask.verb == "pause" else Intent.RUN
    if (found.intent is Intent.PAUSE) == (wanted is Intent.PAUSE):
        return found
    return _want(found, wanted, ask.by, None)


def _kill(found: Current, ask: Ask) -> Current:
    """An end, now or after ``delay`` seconds in which ``unkill`` takes it back."""
    if found.ended:
        return found
    if ask.delay <= 0:
        return _kill_now(found, ask.by, ask.grace)
    if found.intent is Intent.KILL or found.held_due_at is not None:
        return found
    return replace(found, held_due_at=clock.later(ask.delay), held_by=ask.by, held_grace=ask.grace)


def _kill_now(found: Current, by: str, grace: float) -> Current:
    """A second kill counts when it is more impatient than the first, or the node refused that one."""
    unheld = replace(found, held_due_at=None, held_by=None, held_grace=None)
    if found.state is State.PENDING:
        return replace(unheld, state=State.KILLED, reason=f"killed by {by}", ended_at=clock.now())
    on_its_way = found.intent is Intent.KILL and found.intent_done < found.intent_version
    if on_its_way and grace >= (found.intent_grace or 0):
        return found
    state = State.STOPPING if allowed(found.state, State.STOPPING) else found.state
    return _want(replace(unheld, state=state, reason=f"being ended by {by}"), Intent.KILL, by, grace)


def _unkill(found: Current) -> Current:
    if found.ended:
        raise Conflict(f"task {found.task} has ended already", code="ended")
    if found.held_due_at is None:
        late = found.intent is Intent.KILL
        raise Conflict(
            f"it is too late: task {found.task} is being ended"
            if late
            else f"no kill of task {found.task} is held",
            code="too_late" if late else "nothing_held",
        )
    return replace(found, held_due_at=None, held_by=None, held_grace=None)


def _hold(found: Current, ask: Ask) -> Current:
    """A task that waits is kept from starting, or not any more."""
    if found.ended:
        raise Conflict(f"task {found.task} has ended already ({found.state})", code="ended")
    if found.state is not State.PENDING:
        raise Conflict(
            f"task {found.task} does not wait any more ({found.state})",
            hint=f"hakuriver task pause {found.task} pauses what runs",
            code="not_pending",
        )
    if (found.hold_by is not None) == (ask.verb == "hold"):
        return found
    return replace(found, hold_by=ask.by if ask.verb == "hold" else None)


def _check_on_node(found: Current) -> None:
    """Raises Conflict where a pause or its end makes no sense."""
    if found.ended:
        raise Conflict(f"task {found.task} has ended already ({found.state})", code="ended")
    if found.state in (State.PENDING, State.STOPPED):
        raise Conflict(f"task {found.task} is not running ({found.state})", code="not_running")
    if found.intent is Intent.KILL:
        raise Conflict(f"task {found.task} is being ended", code="stopping")


def _want(found: Current, intent: Intent, by: str, grace: float | None) -> Current:
    version = found.intent_version + 1
    return replace(found, intent=intent, intent_version=version, intent_by=by, intent_grace=grace)


def _load(tx: Tx, numbers: Sequence[int]) -> dict[int, Current]:
    found: dict[int, Current] = {}
    for start in range(0, len(numbers), _CHUNK):
        rows = tx.execute(
            select(*_COLUMNS)
            .join(task, (task.c.id == attempt.c.task) & (task.c.attempt == attempt.c.number))
            .where(task.c.id.in_(numbers[start : start + _CHUNK]))
        )
        for row in rows:
            values = row._asdict()
            values |= {"state": State(values["state"]), "intent": Intent(values["intent"])}
            found[row.task] = Current(**values)
    return found


def _save(tx: Tx, changed: Sequence[Current]) -> list[TaskRow]:
    """Store and announce attempts that changed."""
    if not changed:
        return []
    keys = [{"b_task": each.task, "b_number": each.number} for each in changed]
    tx.execute(
        update(attempt)
        .where(attempt.c.task == bindparam("b_task"), attempt.c.number == bindparam("b_number"))
        .values({name: bindparam(f"b_{name}") for name in _SAVED}),
        [
            key | {f"b_{name}": _plain(getattr(each, name)) for name in _SAVED}
            for key, each in zip(keys, changed, strict=True)
        ],
    )
    tx.execute(
        update(task).where(task.c.id == bindparam("b_task")).values(state=bindparam("b_state")),
        [{"b_task": each.task, "b_state": str(each.state)} for each in changed],
    )
    return tx.publish_tasks([each.task for each in changed])


def _plain(value: object) -> object:
    return str(value) if isinstance(value, State | Intent) else value
