"""From a request to stored tasks: what each target gets is decided here, once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import insert, select

from daemons.host import clock
from daemons.host.rows import TaskRow
from daemons.host.scheduler import Room, Shape, could_ever
from daemons.host.schema import attempt, idempotency, task, task_tag
from daemons.host.store import Tx
from hakuriver import target as targets
from hakuriver.errors import CannotFit, Conflict, HakuRiverError, NotFound, TooMany, UsageError
from hakuriver.lifecycle import LIVE, Intent, State
from hakuriver.units import format_cores, format_size, millicores
from hakuriver.wire import SubmitRequest

_CALLER_ENV = ("PATH", "VIRTUAL_ENV", "CONDA_PREFIX")
_LIVE = [str(state) for state in LIVE]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the host's settings decide about submissions."""

    embedded: bool
    default_container: str
    shared_dir: str


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
    room: int
    reason: str


@dataclass(frozen=True, slots=True)
class Setup:
    """How a task is run, wherever it runs."""

    executor: str
    container: str | None
    image: str | None
    workdir: str | None
    env: Mapping[str, str]


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
    shapes, refused = resolve(given, setup.executor)
    _check(tx, given, len(shapes))
    rows = _insert(tx, given, setup, shapes)
    answer = _answer(rows, refused)
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


def choose_setup(request: SubmitRequest, policy: Policy) -> Setup:
    """Executor, image, working directory and environment; raises UsageError for what can't go together."""
    executor, container, image = _choose_executor(request, policy)
    if executor != "process":
        if request.stdin:
            raise UsageError(
                f"standard input can't be fed to a task of executor {executor}", hint="run it without -i"
            )
        if request.on_node_loss != "keep":
            raise UsageError(
                f"a task of executor {executor} can't be fenced, so it can't be moved when its node is lost",
                hint="leave --on-node-loss out, or run it as a process",
            )
    elif request.mounts or request.privileged:
        raise UsageError(
            "a process task sees the node's own files: mounts and privileges are for containers",
            hint="leave them out, or give --container or --image",
        )
    like_here = policy.embedded and executor == "process"
    env = dict(request.env)
    if like_here:
        env = {name: request.caller.env[name] for name in _CALLER_ENV if name in request.caller.env} | env
    workdir = request.workdir or _workdir(request.caller.workdir, policy, like_here, executor == "docker")
    return Setup(executor, container, image, workdir, env)


def _choose_executor(request: SubmitRequest, policy: Policy) -> tuple[str, str | None, str | None]:
    if request.image and request.container:
        raise UsageError("--image and --container name two environments; give one of them")
    container = request.container
    executor = request.executor
    if executor is None:
        if request.image or container not in (None, "NULL"):
            executor = "docker"
        else:
            executor = "process" if container == "NULL" or policy.embedded else "docker"
    if executor != "docker":
        if request.image or container not in (None, "NULL"):
            raise UsageError(f"executor {executor} runs without a container", hint="leave out one of the two")
        return executor, container, None
    if container == "NULL":
        raise UsageError("executor docker needs a container", hint="leave out --container NULL")
    if request.image:
        return executor, None, request.image
    container = container or policy.default_container
    name, _, version = container.partition("@")
    if version:
        raise NotFound(f"environment {name} has no version {version}")
    return executor, container, f"hakuriver/{name}:base"


def _workdir(caller: str | None, policy: Policy, like_here: bool, inside: bool) -> str | None:
    """The caller's folder where it means the same: here, or under the shared folder."""
    if caller is None or like_here:
        return caller
    if not policy.shared_dir or not PurePosixPath(caller).is_relative_to(policy.shared_dir):
        return None
    return (
        str(PurePosixPath("/shared") / PurePosixPath(caller).relative_to(policy.shared_dir))
        if inside
        else caller
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """One task to be made: what it asks for, and its target as it was typed."""

    target: str | None
    shape: Shape


def resolve(given: Submission, executor: str) -> tuple[list[Wanted], list[tuple[str, HakuRiverError]]]:
    """The tasks to make and the targets that are refused; raises when none is left.

    The error of several is of the first one's class with all messages.
    """
    request = given.request
    cores = max(millicores(request.cores), 1) if request.cores else 0  # 0 means something else than little
    if not request.targets:
        shape = Shape(None, None, (), cores, request.memory, executor)
        _check_anywhere(shape, given)
        return [Wanted(None, shape)], []
    wanted: list[Wanted] = []
    refused: list[tuple[str, HakuRiverError]] = []
    by_name = {room.name: room for room in given.rooms}
    for text in request.targets:
        try:
            parsed = targets.parse(text)
            shape = Shape(parsed.node, parsed.numa, parsed.gpus, cores, request.memory, executor)
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


def _check_there(shape: Shape, room: Room | None, given: Submission) -> None:
    if room is None:
        raise NotFound(f"there is no node {shape.node}", hint="hakuriver nodes lists them")
    why = could_ever(shape, room)
    if why is None:
        return
    if shape.executor not in room.executors:
        detail = given.unavailable.get((room.name, shape.executor))
        raise CannotFit(f"{why}{f': {detail}' if detail else ''}", hint=_executor_hint(shape.executor))
    raise CannotFit(why)


def _check_anywhere(shape: Shape, given: Submission) -> None:
    if not given.rooms:
        return
    why = [could_ever(shape, room) for room in given.rooms]
    if None in why:
        return
    if not any(shape.executor in room.executors for room in given.rooms):
        details = {given.unavailable.get((room.name, shape.executor), "") for room in given.rooms} - {""}
        raise CannotFit(
            f"no node has executor {shape.executor}{': ' + '; '.join(sorted(details)) if details else ''}",
            hint=_executor_hint(shape.executor),
        )
    if len(given.rooms) == 1:
        raise CannotFit(str(why[0]))
    largest = max(given.rooms, key=lambda room: (room.cores, room.memory))
    raise CannotFit(
        f"no node can take {format_cores(shape.cores / 1000)} cores and {format_size(shape.memory)} "
        f"(the largest is {largest.name} with {format_cores(largest.cores / 1000)} cores "
        f"and {format_size(largest.memory)})"
    )


def _executor_hint(executor: str) -> str:
    return "--container NULL runs it without Docker" if executor == "docker" else ""


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


def _insert(tx: Tx, given: Submission, setup: Setup, wanted: Sequence[Wanted]) -> list[TaskRow]:
    """A task with its first attempt for each wanted one. There is one writer, so ids can be counted here."""
    first = next_id(tx)
    ids = range(first, first + len(wanted))
    request = given.request
    common: dict[str, Any] = {
        "batch": first,
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
        "command": json.dumps(request.command, ensure_ascii=False),
        "mounts": None
        if request.mounts is None
        else json.dumps([each.model_dump() for each in request.mounts]),
        "env": json.dumps(dict(setup.env), ensure_ascii=False),
    }
    tx.execute(
        insert(task),
        [
            {
                "id": number,
                **common,
                "target": each.target,
                "target_node": each.shape.node,
                "target_numa": each.shape.numa,
                "target_gpus": json.dumps(each.shape.gpus),
                "cores": each.shape.cores,
                "memory": each.shape.memory,
            }
            for number, each in zip(ids, wanted, strict=True)
        ],
    )
    tx.execute(insert(attempt), [first_attempt(number, 1, given.reason) for number in ids])
    if request.tags:
        tx.execute(
            insert(task_tag),
            [{"tag": tag, "task": number} for number in ids for tag in dict.fromkeys(request.tags)],
        )
    return tx.publish_tasks(ids)


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


def _answer(rows: Sequence[TaskRow], refused: Sequence[tuple[str, HakuRiverError]]) -> str:
    shown = [
        {"target": text, "error": error.to_json()["error"] | {"exit_code": error.exit_code}}
        for text, error in refused
    ]
    tasks = ",".join(row.view for row in rows)
    return f'{{"batch":{rows[0].id},"tasks":[{tasks}],"refused":{json.dumps(shown, ensure_ascii=False)}}}'
