"""From a request to stored tasks: what each target gets is decided here, once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select

from daemons.host import clock, sweeps
from daemons.host.environments.catalog import find_version
from daemons.host.lanes import make_shape
from daemons.host.rows import TaskRow
from daemons.host.scheduling.model import UNMEASURED, Caps, Lane, Room, Shape, Use
from daemons.host.scheduling.passes import over_caps
from daemons.host.scheduling.words import closed_for, could_ever, largest
from daemons.host.schema import attempt, idempotency, task, task_after, task_tag
from daemons.host.setup import Policy, Setup, choose_setup
from daemons.host.store import Tx
from hakuriver import target as targets
from hakuriver.environments import parse_reference
from hakuriver.errors import CannotFit, Conflict, HakuRiverError, NotFound, TooMany, UsageError
from hakuriver.lifecycle import ENDED, LIVE, Intent, State
from hakuriver.target import Target
from hakuriver.units import millicores
from hakuriver.views import TaskWants
from hakuriver.wire import SubmitRequest

_LIVE = [str(state) for state in LIVE]
_ENDED = [str(state) for state in ENDED]


@dataclass(frozen=True, slots=True)
class Submission:
    """A request, who sent it, and the cluster as it is; ``room`` is how many tasks the owner may add,
    ``reason`` why they wait at first."""

    request: SubmitRequest
    owner: str
    machine: str
    key: str
    digest: str
    rooms: Sequence[Room]
    unavailable: Mapping[tuple[str, str], str]  # (node, executor) → why
    policy: Policy
    caps: Caps
    room: int
    reason: str


def digest(body: bytes) -> str:
    """What makes two submissions with one key the same."""
    return hashlib.sha256(body).hexdigest()


def store_submission(tx: Tx, given: Submission) -> str:
    """Store a submission, or find it stored already; the answer (``views.SubmitView``) as JSON text."""
    if given.key:
        known = tx.execute(
            select(idempotency.c.digest, idempotency.c.answer).where(
                idempotency.c.principal == given.owner, idempotency.c.key == given.key
            )
        ).first()
        if known is not None:
            if known.digest != given.digest:
                raise Conflict(
                    "this idempotency key was used for another submission",
                    hint="a new submission needs a new key",
                    code="idempotency_mismatch",
                )
            return str(known.answer)
    setup = choose_setup(given.request, given.policy)
    _check_environment(tx, given, setup)
    places, refused = resolve(given, setup.executor)
    commands = sweeps.commands(given.request)
    wanted = [(place, command) for place in places for command in commands]
    _check(tx, given, len(wanted))
    needs = _needs(tx, given.request.after)
    rows = _insert(tx, given, setup, wanted, needs)
    answer = _answer(rows, refused, list(_warnings(given, places)))
    if given.key:
        tx.execute(
            insert(idempotency).values(
                principal=given.owner,
                key=given.key,
                digest=given.digest,
                created_at=clock.now(),
                answer=answer,
            )
        )
    return answer


@dataclass(frozen=True, slots=True)
class Wanted:
    """A place that tasks are to be made for: what they ask for, and the target as it was typed."""

    target: str | None
    shape: Shape


def resolve(given: Submission, executor: str) -> tuple[list[Wanted], list[tuple[str, HakuRiverError]]]:
    """The places to make tasks for and the targets that are refused; raises when none is left.

    The error of several is of the first one's class with all messages.
    """
    request = given.request
    if not request.targets:
        shape = _shape(request, executor, None)
        _check_caps(shape, given)
        _check_anywhere(shape, given)
        return [Wanted(None, shape)], []
    wanted: list[Wanted] = []
    refused: list[tuple[str, HakuRiverError]] = []
    by_name = {room.name: room for room in given.rooms}
    for text in request.targets:
        try:
            parsed = targets.parse(text)
            shape = _shape(request, executor, parsed)
            _check_caps(shape, given)
            _check_there(shape, by_name.get(parsed.node), given)
            wanted.append(Wanted(text, shape))
        except HakuRiverError as error:
            refused.append((text, error))
    if not wanted:
        first = refused[0][1]
        if len(refused) > 1:
            message = "; ".join(dict.fromkeys(error.message for _, error in refused))
            raise type(first)(message, hint=first.hint, code=first.instance_code)
        raise first
    return wanted, refused


def _shape(request: SubmitRequest, executor: str, target: Target | None) -> Shape:
    if target is not None and target.gpus and request.gpu_count:
        raise UsageError(f"target {target} names its GPUs, so --gpus can't be given", hint="give one of them")
    return make_shape(
        target,
        cores=max(millicores(request.cores), 1) if request.cores else 0,  # 0 means something else than little
        memory=request.memory,
        executor=executor,
        wants=_wants(request),
        time_limit=request.time_limit,
    )


def _wants(request: SubmitRequest) -> Mapping[str, Any]:
    """What differs from the defaults of ``views.TaskWants``."""
    wants = request.model_dump(include=set(TaskWants.__annotations__), exclude_defaults=True, mode="json")
    return wants if request.notice is None else wants | {"notice": request.notice.model_dump()}


def _check_caps(shape: Shape, given: Submission) -> None:
    over = over_caps(Lane(shape, given.owner), Use(), given.caps)
    if over:
        raise CannotFit(over, hint="[limits] owner_* of the host say so")


def _check_there(shape: Shape, room: Room | None, given: Submission) -> None:
    if room is None:
        raise NotFound(f"there is no node {shape.node}", hint="hakuriver nodes lists them")
    why = could_ever(shape, room)
    if why is None:
        return
    if shape.executor not in {*room.executors, *room.away}:
        detail = given.unavailable.get((room.name, shape.executor))
        raise CannotFit(f"{why}{f': {detail}' if detail else ''}", hint=_executor_hint(shape.executor))
    raise CannotFit(why)


def _check_anywhere(shape: Shape, given: Submission) -> None:
    if not given.rooms:
        return
    why = [could_ever(shape, room) for room in given.rooms]
    if None in why:
        return
    if (
        not any(shape.executor in {*room.executors, *room.away} for room in given.rooms)
        and shape.executor != "native"
    ):
        details = {given.unavailable.get((room.name, shape.executor), "") for room in given.rooms} - {""}
        raise CannotFit(
            f"no node has executor {shape.executor}{': ' + '; '.join(sorted(details)) if details else ''}",
            hint=_executor_hint(shape.executor),
        )
    raise CannotFit(str(why[0]) if len(given.rooms) == 1 else largest(shape, given.rooms))


def _executor_hint(executor: str) -> str:
    return "--container NULL runs it without Docker" if executor == "docker" else ""


def _warnings(given: Submission, places: Sequence[Wanted]) -> Iterator[str]:
    """What the submitter should know although it is no error."""
    by_name = {room.name: room for room in given.rooms}
    for place in places:
        room = by_name.get(place.shape.node or "")
        if room is None:
            able = [each for each in given.rooms if could_ever(place.shape, each) is None]
            closed = [closed_for(place.shape, each) for each in able]
            if closed and all(closed):
                yield f"{', '.join(closed[:3])}; it waits for that to change"
            continue
        why = closed_for(place.shape, room)
        if why:
            yield f"{place.target}: {why}; it waits for that to change"
        for device in room.devices:
            if device.index not in place.shape.gpus:
                continue
            if device.external:
                yield f"{place.target}: somebody else uses GPU {device.index} of {room.name}"
            if device.lost and device.lost != UNMEASURED:
                yield f"{place.target}: GPU {device.index} of {room.name} is lost: {device.lost}"


def _check(tx: Tx, given: Submission, count: int) -> None:
    if count > given.room:
        raise TooMany(
            f"{given.owner} may have only {max(0, given.room)} more pending tasks, not {count}",
            hint="wait until some have started; [limits] max_queued is the limit",
            code="max_queued",
        )
    name = given.request.name
    if name is None:
        return
    if count > 1:
        raise UsageError(f"name {name} can't be given to {count} tasks", hint="use --tag for several")
    taken = tx.execute(select(task.c.id).where(task.c.name == name, task.c.state.in_(_LIVE))).scalar()
    if taken is not None:
        raise Conflict(
            f"name {name} is taken by task {taken}",
            hint="names are free again when a task ends",
            code="name_taken",
        )


def _check_environment(tx: Tx, given: Submission, setup: Setup) -> None:
    """Raises NotFound or Conflict where a task's environment has nothing to run in."""
    if setup.executor != "docker" or setup.container is None:
        return
    try:
        find_version(tx.connection, parse_reference(setup.container))
    except (NotFound, Conflict) as error:
        if given.request.container is not None:
            raise
        raise type(error)(
            f"a task without --container runs in the default environment, but {error.message}",
            hint=f"{error.hint}; --container NULL runs it without one",
            code=error.instance_code,
        ) from None


def _needs(tx: Tx, after: Sequence[int]) -> list[int]:
    """Those of the tasks to wait for that haven't ended; raises NotFound, and Conflict for one that can't
    complete any more."""
    rows = tx.execute(select(task.c.id, task.c.state).where(task.c.id.in_(set(after)))).all()
    states = {row.id: row.state for row in rows}
    for number in after:
        if number not in states:
            raise NotFound(f"there is no task {number} to start after")
        if states[number] in _ENDED and states[number] != State.COMPLETED:
            raise Conflict(
                f"task {number} has ended as {states[number]}: nothing can start after it",
                hint=f"hakuriver task resubmit {number} tries it once more",
                code="never_completes",
            )
    return [number for number in dict.fromkeys(after) if states[number] not in _ENDED]


def _insert(
    tx: Tx,
    given: Submission,
    setup: Setup,
    wanted: Sequence[tuple[Wanted, Sequence[str]]],
    needs: Sequence[int],
) -> list[TaskRow]:
    """A task with its first attempt for each wanted one. There is one writer, so ids can be counted here."""
    first = next_id(tx)
    ids = range(first, first + len(wanted))
    request = given.request
    common = _common(given, setup) | {"batch": first, "batch_size": len(wanted)}
    tx.execute(
        insert(task),
        [
            {
                "id": first + index,
                **common,
                "batch_index": index,
                "command": json.dumps(command, ensure_ascii=False),
                "target": place.target,
                "target_node": place.shape.node,
                "target_numa": place.shape.numa,
                "target_gpus": json.dumps(place.shape.gpus),
                "cores": place.shape.cores,
                "memory": place.shape.memory,
            }
            for index, (place, command) in enumerate(wanted)
        ],
    )
    hold_by = given.owner if request.hold else None
    tx.execute(insert(attempt), [first_attempt(each, 1, given.reason) | {"hold_by": hold_by} for each in ids])
    if request.tags:
        tags = [{"tag": tag, "task": each} for each in ids for tag in dict.fromkeys(request.tags)]
        tx.execute(insert(task_tag), tags)
    if needs:
        tx.execute(insert(task_after), [{"needs": other, "task": each} for each in ids for other in needs])
    return tx.publish_tasks(ids)


def _common(given: Submission, setup: Setup) -> dict[str, Any]:
    """What all tasks of a batch have in common."""
    request = given.request
    mounts = None if request.mounts is None else json.dumps([each.model_dump() for each in request.mounts])
    return {
        "kind": "command",
        "backend": "native",
        "state": str(State.PENDING),
        "attempt": 1,
        "name": request.name,
        "owner": given.owner,
        "machine": given.machine,
        "executor": setup.executor,
        "container": setup.container,
        "image": setup.image,
        "privileged": request.privileged,
        "on_node_loss": request.on_node_loss,
        "stdin": request.stdin,
        "created_at": clock.now(),
        "workdir": setup.workdir,
        "tags": json.dumps(list(dict.fromkeys(request.tags)), ensure_ascii=False),
        "mounts": mounts,
        "env": json.dumps(dict(setup.env), ensure_ascii=False),
        "priority": request.priority,
        "time_limit": request.time_limit,
        "retries": request.retries,
        "max_running": request.max_running,
        "after": json.dumps(list(dict.fromkeys(request.after))),
        "wants": json.dumps(
            dict(_wants(request)) | ({"user": setup.user} if setup.user else {}), ensure_ascii=False
        ),
    }


def next_id(tx: Tx) -> int:
    """The id that AUTOINCREMENT would give: never one that was used before."""
    last = tx.connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'task'").scalar()
    return int(last or 0) + 1


def reserve_ids(tx: Tx, last: int) -> None:
    """Give no id up to ``last`` any more."""
    if next_id(tx) <= last:
        tx.connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'task'")
        tx.connection.exec_driver_sql("INSERT INTO sqlite_sequence VALUES ('task', ?)", (last,))


def first_attempt(number: int, attempt_number: int, reason: str) -> dict[str, Any]:
    """The row of an attempt that waits."""
    return {
        "task": number,
        "number": attempt_number,
        "state": str(State.PENDING),
        "reason": reason,
        "oom_events": 0,
        "report_sequence": 0,
        "intent": str(Intent.RUN),
        "intent_version": 0,
        "intent_sent": 0,
        "intent_done": 0,
    }


def _answer(
    rows: Sequence[TaskRow], refused: Sequence[tuple[str, HakuRiverError]], warnings: Sequence[str]
) -> str:
    shown = [
        {"target": text, "error": error.to_json()["error"] | {"exit_code": error.exit_code}}
        for text, error in refused
    ]
    tasks = ",".join(row.view for row in rows)
    rest = json.dumps({"refused": shown, "warnings": warnings}, ensure_ascii=False)[1:]
    return f'{{"batch":{rows[0].id},"tasks":[{tasks}],{rest}'


def same_again(tx: Tx, number: int) -> SubmitRequest:
    """The request that made a task, as far as it is the same today: without its name while that is taken, and
    without what it waited for. Raises NotFound."""
    row = tx.execute(select(task).where(task.c.id == number)).first()
    if row is None:
        raise NotFound(f"there is no task {number}", hint="hakuriver task list shows the newest")
    taken = tx.execute(select(task.c.id).where(task.c.name == row.name, task.c.state.in_(_LIVE))).first()
    return SubmitRequest.model_validate(
        {
            "command": json.loads(row.command),
            "targets": [] if row.target is None else [row.target],
            "cores": row.cores / 1000,
            "memory": row.memory,
            "env": json.loads(row.env),
            "container": row.container,
            "image": None if row.container else row.image,
            "executor": row.executor,
            "mounts": None if row.mounts is None else json.loads(row.mounts),
            "privileged": row.privileged,
            "workdir": row.workdir,
            "name": None if taken else row.name,
            "tags": json.loads(row.tags),
            "on_node_loss": row.on_node_loss,
            "priority": row.priority,
            "time_limit": row.time_limit,
            "retries": row.retries,
            **json.loads(row.wants),
        }
    )
