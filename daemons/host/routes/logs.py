"""Bytes of a task's log."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daemons.common.web import Handler, Principal
from daemons.host.context import Host
from daemons.host.logs import Ranged
from daemons.host.routes import query
from hakuriver.errors import NotFound
from hakuriver.fields import Stream
from hakuriver.paths import HEADER_ENDED, HEADER_NOTE, HEADER_OFFSET, HEADER_SIZE

MAX_READ = 2**20
MAX_WAIT = 30.0
_STREAMS: dict[str, Stream] = {"stdout": "stdout", "stderr": "stderr"}


def handlers(host: Host) -> dict[str, Handler]:
    """Handlers by route name."""

    async def logs(request: Request, _: Principal) -> Response:
        query.check_names(request, ("offset", "limit", "tail", "wait", "attempt"))
        number = query.task_id(request)
        stream = _STREAMS.get(request.path_params["stream"])
        if stream is None:
            raise NotFound(f"there is no stream {request.path_params['stream']}", hint="stdout or stderr")
        asked = Ranged(
            offset=query.whole(request, "offset", 0, 0, 2**62),
            limit=query.whole(request, "limit", MAX_READ, 1, MAX_READ),
            tail=query.optional(request, "tail", 0, 2**31),
            wait=query.seconds(request, "wait", MAX_WAIT),
            attempt=query.optional(request, "attempt", 1, 2**31),
        )
        piece = await host.logs.read(number, stream, asked)
        headers = {
            HEADER_OFFSET: str(piece.offset),
            HEADER_SIZE: str(piece.size),
            HEADER_ENDED: "1" if piece.ended else "0",
        }
        if piece.note:
            headers[HEADER_NOTE] = piece.note.encode("ascii", "replace").decode()
        return Response(piece.data, media_type="application/octet-stream", headers=headers)

    return {"logs": logs}
