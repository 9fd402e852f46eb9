"""Which cluster this is, and its API described."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from daemons.common.web import Handler, Principal
from daemons.host import openapi
from daemons.host.context import Host
from daemons.host.routes import query
from hakuriver import WIRE_VERSION, __version__
from hakuriver.views import ClusterView


def cluster_view(host: Host, principal: Principal, cursor: str) -> ClusterView:
    """This cluster as a caller sees it."""
    return ClusterView(
        cluster=host.store.identity.cluster,
        epoch=host.store.identity.epoch,
        version=__version__,
        wire=WIRE_VERSION,
        embedded=host.policy.embedded,
        subject=principal.subject,
        cursor=cursor,
    )


def handlers(host: Host) -> dict[str, Handler]:
    """Handlers by route name."""

    async def cluster(request: Request, principal: Principal) -> Response:
        query.check_names(request, ())
        return JSONResponse(cluster_view(host, principal, host.hub.cursor))

    async def describe(request: Request, _: Principal) -> Response:
        query.check_names(request, ())
        return JSONResponse(openapi.document())

    return {"cluster": cluster, "openapi": describe}
