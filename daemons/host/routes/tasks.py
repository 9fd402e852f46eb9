"""Tasks: submitted, listed, shown, and told what to do."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from daemons.common.web import Handler, Principal, read_body, read_bytes, validate
from daemons.host import intents, listing, losses, submit
from daemons.host.context import Host
from daemons.host.routes import query
from daemons.host.rows import TaskRow, load_tasks, task_view
from daemons.host.scheduler import NO_NODE, QUEUED
from daemons.host.schema import task
from hakuriver.errors import Conflict, HakuRiverError, UsageError
from hakuriver.lifecycle import State
from hakuriver.paths import HEADER_IDEMPOTENCY, HEADER_MACHINE, MAX_STDIN, runner_path
from hakuriver.wire import IntentsRequest, KillRequest, RequeueRequest, SignalRequest, SubmitRequest

_LIST = ("state", "node", "owner", "tag", "batch", "kind", "name", "machine", "limit", "cursor")
_FED = frozenset({State.RUNNING, State.PAUSED})


def handlers(host: Host) -> dict[str, Handler]:
    """Handlers by route name."""

    async def tasks(request: Request, principal: Principal) -> Response:
        query.check_names(request, _LIST)
        given = request.query_params
        wanted = listing.Filter(
            states=listing.parse_states(given.get("state")),
            node=given.get("node"),
            owner=principal.subject if given.get("owner") == "@me" else given.get("owner"),
            tag=given.get("tag"),
            batch=query.optional(request, "batch", 1, query.MAX_ID),
            kind=given.get("kind"),
            name=given.get("name"),
            machine=_machine(request) if given.get("machine") == "@me" else given.get("machine"),
        )
        limit = query.whole(request, "limit", 50, 1, 1000)
        before = query.optional(request, "cursor", 1, query.MAX_ID)
        return _json(
            await host.store.read(lambda connection: listing.page(connection, wanted, limit, before))
        )

    async def submit_tasks(request: Request, principal: Principal) -> Response:
        body = await read_bytes(request)
        given = validate(SubmitRequest, body)
        return _json(await _submit(host, request, principal, body, given), 201)

    async def show(request: Request, _: Principal) -> Response:
        number = query.task_id(request)
        view = await host.store.read(lambda connection: task_view(connection, number, attempts=True))
        if view is None:
            raise intents.no_task(number)
        return _json(view)

    async def kill(request: Request, principal: Principal) -> Response:
        number = query.task_id(request)
        given = await read_body(request, KillRequest)
        return await _change(number, intents.Ask("kill", principal.subject, _grace(given), given.delay))

    async def unkill(request: Request, principal: Principal) -> Response:
        return await _change(query.task_id(request), intents.Ask("unkill", principal.subject))

    async def pause(request: Request, principal: Principal) -> Response:
        return await _change(query.task_id(request), intents.Ask("pause", principal.subject))

    async def resume(request: Request, principal: Principal) -> Response:
        return await _change(query.task_id(request), intents.Ask("resume", principal.subject))

    async def requeue(request: Request, principal: Principal) -> Response:
        number = query.task_id(request)
        given = await read_body(request, RequeueRequest)
        rows = await host.store.read(lambda connection: load_tasks(connection, [number]))
        left = host.losses.lease_left(rows[0].node if rows else None)
        move = losses.Move(principal.subject, given.force, left)
        return _json((await host.store.write(lambda tx: losses.requeue(tx, number, move))).view)

    async def many(request: Request, principal: Principal) -> Response:
        given = await read_body(request, IntentsRequest)
        ask = intents.Ask(given.verb, principal.subject, _grace(given), given.delay)
        outcomes = await host.store.write(lambda tx: intents.carry_out(tx, given.tasks, ask))
        return _json(_intents_view(given.tasks, outcomes))

    async def send_signal(request: Request, _: Principal) -> Response:
        number = query.task_id(request)
        given = await read_body(request, SignalRequest)
        row = await _running(host, number)
        path = runner_path("signal", task=row.id, attempt=row.attempt)
        await host.dispatcher.ask(row.node or "", path, query={}, body=given.model_dump())
        return _json(row.view)

    async def stdin(request: Request, _: Principal) -> Response:
        query.check_names(request, ("offset", "eof"))
        number = query.task_id(request)
        asked = {
            "offset": query.whole(request, "offset", 0, 0, 2**62),
            "eof": query.whole(request, "eof", 0, 0, 1),
        }
        data = await read_bytes(request, MAX_STDIN)
        row = await _running(host, number)
        if not await host.store.read(
            lambda connection: connection.execute(select(task.c.stdin).where(task.c.id == number)).scalar()
        ):
            raise Conflict(f"task {number} was started without standard input", code="no_stdin")
        path = runner_path("stdin", task=row.id, attempt=row.attempt)
        return JSONResponse(await host.dispatcher.ask(row.node or "", path, query=asked, body=data))

    async def _change(number: int, ask: intents.Ask) -> Response:
        return _json((await host.store.write(lambda tx: intents.carry_out_one(tx, number, ask))).view)

    def _grace(given: KillRequest) -> float:
        return host.settings.timing.kill_grace if given.grace is None else given.grace

    return {
        "tasks": tasks,
        "submit": submit_tasks,
        "task": show,
        "kill": kill,
        "unkill": unkill,
        "pause": pause,
        "resume": resume,
        "requeue": requeue,
        "intents": many,
        "signal": send_signal,
        "stdin": stdin,
    }


async def _submit(
    host: Host, request: Request, principal: Principal, body: bytes, given: SubmitRequest
) -> str:
    owner = principal.subject
    key = request.headers.get(HEADER_IDEMPOTENCY, "")
    if len(key) > 200:
        raise UsageError(f"{HEADER_IDEMPOTENCY} is longer than 200 characters")
    coming = max(1, len(given.targets))
    taken = host.ledger.queue.owners[owner] + host.submitting[owner]
    rooms = host.nodes.rooms()
    first = not rooms and not host.ledger.queue and not host.submitting.total()
    submission = submit.Submission(
        request=given,
        owner=owner,
        machine=_machine(request),
        key=key,
        digest=submit.digest(body),
        rooms=rooms,
        unavailable=host.nodes.unavailable(),
        policy=host.policy,
        room=host.settings.limits.max_queued - taken,
        reason=NO_NODE if first else QUEUED,
    )
    host.submitting[owner] += coming
    try:
        return await host.store.write(lambda tx: submit.store_submission(tx, submission))
    finally:
        host.submitting[owner] -= coming


def _intents_view(numbers: Sequence[int], outcomes: Sequence[TaskRow | HakuRiverError]) -> str:
    """``views.IntentsView`` as JSON text."""
    items = [each.view for each in outcomes if isinstance(each, TaskRow)]
    refused = [
        {"id": number, "status": each.http_status, **each.to_json()}
        for number, each in zip(numbers, outcomes, strict=True)
        if isinstance(each, HakuRiverError)
    ]
    return f'{{"items":[{",".join(items)}],"refused":{json.dumps(refused, ensure_ascii=False)}}}'


async def _running(host: Host, number: int) -> TaskRow:
    """A task whose process can be reached now; raises NotFound or Conflict."""
    rows = await host.store.read(lambda connection: load_tasks(connection, [number]))
    if not rows:
        raise intents.no_task(number)
    if rows[0].state not in _FED:
        raise Conflict(f"task {number} is not running ({rows[0].state})", code="not_running")
    return rows[0]


def _machine(request: Request) -> str:
    return request.headers.get(HEADER_MACHINE, "")[:255]


def _json(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="application/json")
