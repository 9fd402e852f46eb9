"""Shells and commands in environment containers, over a WebSocket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.websockets import WebSocket

from daemons.common.engine import EngineAway
from daemons.common.web import Principal, Socket
from daemons.host.environments.containers import Containers
from daemons.host.environments.sessions import Sessions
from hakuriver.environments import check_name
from hakuriver.errors import Unreachable


def sockets(
    sessions: Sessions, containers: Containers, looked: Callable[[], Awaitable[object]]
) -> dict[str, Socket]:
    """WebSocket handlers by route name; ``looked`` waits until the engine was looked for."""

    async def exec_(socket: WebSocket, principal: Principal) -> None:
        name = check_name(socket.path_params["name"])
        await looked()  # whoever comes back to a host that was just started is told that, not of the engine
        try:
            await containers.require(name)
        except EngineAway as error:
            raise Unreachable(str(error), hint="start the Docker engine of the host") from error
        await socket.accept()
        await sessions.serve(socket, principal.subject, name)

    return {"exec": exec_}
