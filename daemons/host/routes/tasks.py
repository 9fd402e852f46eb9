"""Tasks: submitted, listed, shown, and told what to do."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from daemons.common.web import Handler, Principal, read_body, read_bytes
from daemons.host import intents, listing, losses
from daemons.host.context import Host
from daemons.host.routes import query
from daemons.host.rows import TaskRow, load_tasks, task_views
from daemons.host.schema import task
from hakuriver.errors import Conflict, HakuRiverError
from hakuriver.lifecycle import State
from hakuriver.paths import HEADER_MACHINE, MAX_STDIN, runner_path
from hakuriver.wire import IntentsRequest, KillRequest, RequeueRequest, SignalRequest, TasksRequest

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

    async def show(request: Request, _: Principal) -> Response:
        number = query.task_id(request)
        views = await host.store.read(lambda connection: task_views(connection, [number]))
        if number not in views:
            raise intents.no_task(number)
        return _json(views[number])

    async def show_many(request: Request, _: Principal) -> Response:
        given = await read_body(request, TasksRequest)
        views = await host.store.read(lambda connection: task_views(connection, given.tasks))
        return _json(
            _many_view(given.tasks, [views.get(each) or intents.no_task(each) for each in given.tasks])
        )

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
        return _json(await _requeue(host, number, principal.subject, force=given.force))

    async def many(request: Request, principal: Principal) -> Response:
        given = await read_body(request, IntentsRequest)
        ask = intents.Ask(given.verb, principal.subject, _grace(given), given.delay)
        outcomes = await host.store.write(lambda tx: intents.carry_out(tx, given.tasks, ask))
        views = [each if isinstance(each, HakuRiverError) else each.view for each in outcomes]
        return _json(_many_view(given.tasks, views))

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
        "task": show,
        "show": show_many,
        "kill": kill,
        "unkill": unkill,
        "pause": pause,
        "resume": resume,
        "requeue": requeue,
        "intents": many,
        "signal": send_signal,
        "stdin": stdin,
    }


async def _requeue(host: Host, number: int, by: str, *, force: bool) -> str:
    rows = await host.store.read(lambda connection: load_tasks(connection, [number]))
    left = host.losses.lease_left(rows[0].node if rows else None)
    move = losses.Move(by, force, left, host.recovery.keeps(number))
    moved = await host.store.write(lambda tx: losses.requeue(tx, number, move))
    if force:
        await host.recovery.release(number)
    return moved.view


def _many_view(numbers: Sequence[int], outcomes: Sequence[str | HakuRiverError]) -> str:
    """``views.IntentsView`` as JSON text."""
    items = [each for each in outcomes if isinstance(each, str)]
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
