"""What people want of a task that exists: end, pause, go on. Operations of the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from daemons.host import clock
from daemons.host.rows import TaskRow, load_tasks
from daemons.host.schema import attempt, task
from daemons.host.store import Tx
from hakuriver.errors import Conflict, NotFound
from hakuriver.lifecycle import ENDED, Intent, State, allowed


@dataclass(frozen=True, slots=True)
class Current:
    """The current attempt of a task, as far as intents look at it."""

    task: int
    number: int
    state: State
    intent: Intent
    intent_version: int
    intent_done: int
    intent_grace: float | None
    held_due_at: str | None
    held_by: str | None
    held_grace: float | None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def no_task(number: int) -> NotFound:
    """The error for an id that was never given."""
    return NotFound(f"there is no task {number}", hint="hakuriver task list shows the newest")


def current(tx: Tx, number: int) -> Current:
    """The current attempt; raises NotFound."""
    columns = [attempt.c[name] for name in Current.__dataclass_fields__]
    row = tx.execute(
        select(*columns)
        .join(task, (task.c.id == attempt.c.task) & (task.c.attempt == attempt.c.number))
        .where(task.c.id == number)
    ).first()
    if row is None:
        raise no_task(number)
    values = row._asdict()
    return Current(**values | {"state": State(values["state"]), "intent": Intent(values["intent"])})


def kill(tx: Tx, number: int, by: str, grace: float, delay: float) -> TaskRow:
    """Ask for an end, now or after ``delay`` seconds in which ``unkill`` takes it back."""
    found = current(tx, number)
    if found.ended:
        return _unchanged(tx, number)
    if delay <= 0:
        return _publish(tx, number) if _kill_now(tx, found, by, grace) else _unchanged(tx, number)
    if found.intent is Intent.KILL or found.held_due_at is not None:
        return _unchanged(tx, number)
    _set(tx, found, held_due_at=clock.later(delay), held_by=by, held_grace=grace)
    return _publish(tx, number)


def kill_due(tx: Tx, number: int, due: str) -> None:
    """Carry out a held kill, if it is still the one that was held."""
    found = current(tx, number)
    if found.held_due_at != due or found.ended:
        return
    if _kill_now(tx, found, found.held_by or "", found.held_grace or 0):
        _publish(tx, number)


def unkill(tx: Tx, number: int) -> TaskRow:
    """Take a held kill back; raises Conflict when there is none any more."""
    found = current(tx, number)
    if found.ended:
        raise Conflict(f"task {number} has ended already", code="ended")
    if found.held_due_at is None:
        late = found.intent is Intent.KILL
        raise Conflict(
            f"it is too late: task {number} is being ended" if late else f"no kill of task {number} is held",
            code="too_late" if late else "nothing_held",
        )
    _set(tx, found, held_due_at=None, held_by=None, held_grace=None)
    return _publish(tx, number)


def pause(tx: Tx, number: int, by: str) -> TaskRow:
    """Ask for a pause; raises Conflict where that makes no sense."""
    found = _live(tx, number)
    if found.intent is Intent.PAUSE:
        return _unchanged(tx, number)
    _want(tx, found, Intent.PAUSE, by)
    return _publish(tx, number)


def resume(tx: Tx, number: int, by: str) -> TaskRow:
    """Ask for the end of a pause; what isn't paused just goes on."""
    found = _live(tx, number)
    if found.intent is not Intent.PAUSE:
        return _unchanged(tx, number)
    _want(tx, found, Intent.RUN, by)
    return _publish(tx, number)


def _live(tx: Tx, number: int) -> Current:
    found = current(tx, number)
    if found.ended:
        raise Conflict(f"task {number} has ended already ({found.state})", code="ended")
    if found.state in (State.PENDING, State.STOPPED):
        raise Conflict(f"task {number} is not running ({found.state})", code="not_running")
    if found.intent is Intent.KILL:
        raise Conflict(f"task {number} is being ended", code="stopping")
    return found


def _kill_now(tx: Tx, found: Current, by: str, grace: float) -> bool:
    """Returns whether anything changed; a second kill counts when it is more impatient than the first."""
    unheld: dict[str, Any] = {"held_due_at": None, "held_by": None, "held_grace": None}
    if found.state is State.PENDING:
        _set(tx, found, state=str(State.KILLED), reason=f"killed by {by}", ended_at=clock.now(), **unheld)
        return True
    if found.intent is Intent.KILL and grace >= (found.intent_grace or 0):
        return False
    state = State.STOPPING if allowed(found.state, State.STOPPING) else found.state
    _want(tx, found, Intent.KILL, by, grace, state=str(state), reason=f"being ended by {by}", **unheld)
    return True


def _want(tx: Tx, found: Current, intent: Intent, by: str, grace: float | None = None, **more: Any) -> None:
    version = found.intent_version + 1
    _set(tx, found, intent=str(intent), intent_version=version, intent_by=by, intent_grace=grace, **more)


def _set(tx: Tx, found: Current, **values: Any) -> None:
    tx.execute(
        update(attempt).where(attempt.c.task == found.task, attempt.c.number == found.number).values(**values)
    )
    if "state" in values:
        tx.execute(update(task).where(task.c.id == found.task).values(state=values["state"]))


def _unchanged(tx: Tx, number: int) -> TaskRow:
    return load_tasks(tx.connection, [number])[0]


def _publish(tx: Tx, number: int) -> TaskRow:
    return tx.publish_tasks([number])[0]
