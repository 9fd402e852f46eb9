"""Into the queue, and why something still stands there."""

from __future__ import annotations

import json

from sqlalchemy import Connection, func, select
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from daemons.common.web import Handler, Principal, read_bytes, validate
from daemons.host import clock, intents, submit, sweeps
from daemons.host.context import Host
from daemons.host.routes import query
from daemons.host.rows import load_tasks
from daemons.host.scheduling.explain import prospects
from daemons.host.scheduling.model import NO_NODE, QUEUED
from daemons.host.scheduling.passes import held_back
from daemons.host.schema import task
from hakuriver.errors import NotFound, UsageError
from hakuriver.paths import HEADER_IDEMPOTENCY, HEADER_MACHINE
from hakuriver.views import BatchView, ExplainView, NodeReason
from hakuriver.wire import SubmitRequest


def handlers(host: Host) -> dict[str, Handler]:
    """Handlers by route name."""

    async def submit_tasks(request: Request, principal: Principal) -> Response:
        body = await read_bytes(request)
        given = validate(SubmitRequest, body)
        return await _submit(host, request, principal, submit.digest(body), given)

    async def resubmit(request: Request, principal: Principal) -> Response:
        number = query.task_id(request)
        given = await host.store.write(lambda tx: submit.same_again(tx, number))
        return await _submit(host, request, principal, submit.digest(b"resubmit %d" % number), given)

    async def explain(request: Request, _: Principal) -> Response:
        query.check_names(request, ())
        return JSONResponse(await _explain(host, query.task_id(request)))

    async def batch(request: Request, _: Principal) -> Response:
        query.check_names(request, ())
        number = query.task_id(request)
        found = await host.store.read(lambda connection: batch_view(connection, number))
        if found is None:
            raise NotFound(f"there is no batch {number}", hint="hakuriver task list --batch shows one")
        return JSONResponse(found)

    return {"submit": submit_tasks, "resubmit": resubmit, "explain": explain, "batch": batch}


async def _submit(
    host: Host, request: Request, principal: Principal, digest: str, given: SubmitRequest
) -> Response:
    owner = principal.subject
    key = request.headers.get(HEADER_IDEMPOTENCY, "")
    if len(key) > 200:
        raise UsageError(f"{HEADER_IDEMPOTENCY} is longer than 200 characters")
    coming = sweeps.count(given)
    taken = host.ledger.queue.owners[owner] + host.submitting[owner]
    rooms = host.nodes.rooms()
    first = not rooms and not host.ledger.queue and not host.submitting.total()
    submission = submit.Submission(
        request=given,
        owner=owner,
        machine=request.headers.get(HEADER_MACHINE, "")[:255],
        key=key,
        digest=digest,
        rooms=rooms,
        unavailable=host.nodes.unavailable(),
        policy=host.policy,
        caps=host.placing.caps,
        room=host.settings.limits.max_queued - taken,
        reason=NO_NODE if first else QUEUED,
    )
    host.submitting[owner] += coming
    try:
        answer = await host.store.write(lambda tx: submit.store_submission(tx, submission))
    finally:
        host.submitting[owner] -= coming
    return Response(answer, 201, media_type="application/json")


async def _explain(host: Host, number: int) -> ExplainView:
    rows = await host.store.read(lambda connection: load_tasks(connection, [number]))
    if not rows:
        raise intents.no_task(number)
    shown = json.loads(rows[0].view)
    queue, reservations = host.ledger.queue, host.placing.reservations
    lane = queue.lane(number)
    mine = next((each for each in reservations if each.task == number), None)
    others = [
        (each, theirs.shape)
        for each in reservations
        for theirs in [queue.lane(each.task)]
        if each is not mine and theirs is not None
    ]
    cluster = host.placing.cluster()
    found = [] if lane is None else prospects(lane.shape, cluster, others)
    reason = shown["reason"]
    if lane is not None and reason == QUEUED:  # only the first of a lane has a reason of its own
        reason = held_back(lane, cluster.batches, cluster.owners, cluster.caps) or reason
    return ExplainView(
        id=number,
        state=shown["state"],
        reason=reason,
        ahead=queue.ahead(number) if queue.takes_part(number) else 0,
        reserved=mine.node if mine else None,
        reserved_at=clock.of(mine.at) if mine and mine.at is not None else None,
        nodes=[
            NodeReason(
                node=each.node,
                fits=each.fits,
                why=each.why,
                tasks=list(each.tasks),
                at=None if each.at is None else clock.of(each.at),
            )
            for each in found
        ],
    )


def batch_view(connection: Connection, number: int) -> BatchView | None:
    """How many tasks of a batch are in each state; None when there is no such batch (any more)."""
    rows = connection.execute(
        select(task.c.state, func.count(), func.max(task.c.batch_size), func.max(task.c.max_running))
        .where(task.c.batch == number)
        .group_by(task.c.state)
        .order_by(task.c.state)
    ).all()
    if not rows:
        return None
    return BatchView(
        batch=number,
        size=max(row[2] for row in rows),
        states={row[0]: row[1] for row in rows},
        max_running=rows[0][3],
    )
