"""The part of the TUI's peer that has shells: the WebSocket of the host, on a pty of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from hakuriver.errors import NotFound
from tests.tui.shells import SHELL, Pty
from tui.terminal.channel import Ended, Output

if TYPE_CHECKING:
    from tests.tui.peer import Peer


class PeerShell:
    """A shell that outlives its connections, with all that it ever wrote."""

    def __init__(self, opening: dict[str, Any]) -> None:
        self.id = uuid.uuid4().hex
        self.pty = Pty(SHELL, opening["rows"], opening["cols"])
        self.output = b""
        self.got = 0
        self.code: int | None = None
        self.ended = False
        self.news = asyncio.Event()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while self.code is None:
            event = await self.pty.receive()
            if isinstance(event, Output):
                self.output += event.data
            elif isinstance(event, Ended):
                self.code = event.code
            self.news.set()

    async def end(self) -> None:
        self.reading.cancel()
        await asyncio.wait([self.reading])
        if not self.ended:
            self.ended = True
            await self.pty.close()

    async def show(self, socket: WebSocket, since: int) -> None:
        """Send what it writes, and its end."""
        while True:
            self.news.clear()
            if since < len(self.output):
                part, since = self.output[since:], len(self.output)
                await socket.send_bytes(part)
            elif self.code is not None:
                await socket.send_json({"type": "exit", "code": self.code})
                return
            else:
                await self.news.wait()

    async def obey(self, socket: WebSocket) -> None:
        """Take what the client sends until it closes the shell."""
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            if (data := message.get("bytes")) is not None:
                self.got += len(data)
                await self.pty.send(data)
                await socket.send_json({"type": "ack", "received": self.got})
                continue
            order = json.loads(message["text"])
            if order["type"] == "resize":
                await self.pty.resize(order["rows"], order["cols"])
            elif order["type"] == "close":
                await self.end()
                return


def shell_routes(host: Peer) -> list[WebSocketRoute]:
    async def run(socket: WebSocket) -> None:
        if host.refuse_shell:
            error = NotFound("its container has no /bin/sh")
            await socket.send_denial_response(JSONResponse(error.to_json(), error.http_status))
            return
        await socket.accept()
        first = await socket.receive_json()
        if first["type"] == "open":
            shell = PeerShell(first)
            host.shells[shell.id] = shell
            host.seen.append(("WEBSOCKET", f"env shell {socket.path_params['name']}", first))
        else:
            shell = host.shells[first["session"]]
        host.sockets.append(socket)
        await socket.send_json({"type": "session", "id": shell.id, "received": shell.got})
        showing = asyncio.create_task(shell.show(socket, first.get("received", 0)))
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await shell.obey(socket)
        showing.cancel()
        await asyncio.wait([showing])
        host.sockets.remove(socket)
        with contextlib.suppress(RuntimeError):
            await socket.close()

    return [WebSocketRoute("/api/environments/{name}/exec", run)]
