"""Nodes: seen by people, spoken by runners."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from daemons.common.web import Handler, Principal, answer, read_body
from daemons.host import reports, upkeep
from daemons.host.context import Host
from daemons.host.nodes import heartbeat_answer
from daemons.host.routes import query
from hakuriver.errors import NotAllowed
from hakuriver.nodewire import Answer, Goodbye, Heartbeat, Registration, RegistrationAnswer, ReportBatch
from hakuriver.wire import DrainRequest, RemoveRequest


def handlers(host: Host) -> dict[str, Handler]:
    """Handlers by route name."""

    async def nodes(request: Request, _: Principal) -> Response:
        query.check_names(request, ())
        return JSONResponse([host.nodes.view(name) for name in host.nodes.names()])

    async def node(request: Request, _: Principal) -> Response:
        query.check_names(request, ())
        name: str = request.path_params["name"]
        if name not in host.nodes:
            raise upkeep.no_node(name)
        return JSONResponse(host.nodes.view(name))

    async def drain(request: Request, principal: Principal) -> Response:
        given = await read_body(request, DrainRequest)
        name: str = request.path_params["name"]
        await host.store.write(lambda tx: upkeep.drain(tx, name, given.reason, principal.subject))
        return JSONResponse(host.nodes.view(name))

    async def undrain(request: Request, principal: Principal) -> Response:
        name: str = request.path_params["name"]
        await host.store.write(lambda tx: upkeep.undrain(tx, name, principal.subject))
        return JSONResponse(host.nodes.view(name))

    async def remove(request: Request, principal: Principal) -> Response:
        given = await read_body(request, RemoveRequest)
        name: str = request.path_params["name"]
        view = host.nodes.view(name) if name in host.nodes else None
        await host.store.write(lambda tx: upkeep.remove(tx, name, principal.subject, force=given.force))
        return JSONResponse(view)

    async def register(request: Request, principal: Principal) -> Response:
        given = await read_body(request, Registration)
        check_subject(principal, given.name)
        await host.nodes.register(given)
        await host.recovery.registered(given.name)
        host.dispatcher.node_alive(given.name)
        identity = host.store.identity
        return answer(
            RegistrationAnswer(
                cluster=identity.cluster,
                epoch=identity.epoch,
                heartbeat_interval=host.settings.timing.heartbeat_interval,
                lease=host.settings.timing.lease,
            )
        )

    async def heartbeat(request: Request, principal: Principal) -> Response:
        name: str = request.path_params["name"]
        check_subject(principal, name)
        given = await read_body(request, Heartbeat)
        before = host.nodes.out_of_use(name)
        again = await host.nodes.heartbeat(name, given)
        if not again:
            if host.nodes.out_of_use(name) != before:
                host.placing.wake()
            await host.losses.heard(name, given)
            await host.recovery.heard(name, given)
            host.dispatcher.node_alive(name)
            host.hub.touch(name)
        return answer(heartbeat_answer(host.store.identity.epoch, again))

    async def report(request: Request, principal: Principal) -> Response:
        name: str = request.path_params["name"]
        check_subject(principal, name)
        batch = await read_body(request, ReportBatch)
        return answer(await host.store.write(lambda tx: reports.apply_batch(tx, name, batch)))

    async def goodbye(request: Request, principal: Principal) -> Response:
        name: str = request.path_params["name"]
        check_subject(principal, name)
        given = await read_body(request, Goodbye)
        await host.nodes.goodbye(name, given.runner)
        return answer(Answer())

    return {
        "nodes": nodes,
        "node": node,
        "drain": drain,
        "undrain": undrain,
        "remove": remove,
        "register": register,
        "heartbeat": heartbeat,
        "reports": report,
        "goodbye": goodbye,
    }


def check_subject(principal: Principal, name: str) -> None:
    """A node's credential speaks for that node only; ``*`` for any."""
    if principal.subject not in ("*", name):
        raise NotAllowed(f"the credential of {principal.subject} can't speak for node {name}")
