"""The watch stream over HTTP: one JSON object a line, for as long as the client listens."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from daemons.common.web import Handler, Principal
from daemons.host.context import Host
from daemons.host.routes import query
from daemons.host.routes.cluster import cluster_view
from daemons.host.watch import parse_cursor

_MAX_TASKS = 1000


def handlers(host: Host) -> dict[str, Handler]:
    """Handlers by route name."""

    async def watch(request: Request, principal: Principal) -> Response:
        query.check_names(request, ("since", "tasks"))
        since = request.query_params.get("since")
        if since:
            parse_cursor(since, host.store.identity.epoch)
        chosen = query.ids(request, "tasks", _MAX_TASKS)
        lines = host.hub.stream(lambda cursor: cluster_view(host, principal, cursor), since, chosen)
        return StreamingResponse(
            lines, media_type="application/x-ndjson", headers={"Cache-Control": "no-store"}
        )

    return {"watch": watch}
