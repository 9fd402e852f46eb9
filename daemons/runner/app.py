"""The runner's own API: only the host may use it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from daemons.common import web
from daemons.common.threads import Threads, until
from daemons.runner.agent import Agent
from daemons.runner.folders import STREAM_FILES, folder_of
from daemons.runner.images.images import Images
from daemons.runner.images.prefetch import prefetch
from daemons.runner.logs import MAX_READ, Part, read, tail_offset
from daemons.runner.model import Key
from hakuriver import __version__
from hakuriver.errors import NotFound, UsageError
from hakuriver.nodewire import Answer, AttemptOrder, EnvironmentRef, IntentOrder
from hakuriver.paths import HEADER_ENDED, HEADER_OFFSET, HEADER_SIZE, MAX_STDIN, RUNNER_ROUTES, Kind
from hakuriver.wire import SignalRequest

MAX_WAIT = 30.0
LOOK_INTERVAL = 0.05  # how soon a follower sees new bytes


class Api:
    """Handlers of RUNNER_ROUTES."""

    def __init__(
        self, agent: Agent, images: Images, attempts: Path, threads: Threads, *, name: str, runner: str
    ) -> None:
        self._agent = agent
        self._images = images
        self._attempts = attempts
        self._threads = threads
        self._name = name
        self._runner = runner

    async def health(self, _: Request, __: web.Principal) -> Response:
        return JSONResponse({"name": self._name, "runner": self._runner, "version": __version__})

    async def order(self, request: Request, _: web.Principal) -> Response:
        order = await web.read_body(request, AttemptOrder)
        return web.answer(await self._agent.order(_key(request), order))

    async def intent(self, request: Request, _: web.Principal) -> Response:
        order = await web.read_body(request, IntentOrder)
        await self._agent.intent(_key(request), order)
        return web.answer(Answer())

    async def signal(self, request: Request, _: web.Principal) -> Response:
        order = await web.read_body(request, SignalRequest)
        await self._agent.signal(_key(request), order.signal)
        return web.answer(Answer())

    async def stdin(self, request: Request, _: web.Principal) -> Response:
        offset = _number(request, "offset", 0)
        eof = _number(request, "eof", 0, most=1) == 1
        data = await web.read_bytes(request, MAX_STDIN)
        return JSONResponse({"offset": await self._agent.stdin(_key(request), offset, data, eof=eof)})

    async def prefetch(self, request: Request, _: web.Principal) -> Response:
        ref = await web.read_body(request, EnvironmentRef)
        return StreamingResponse(prefetch(self._images, ref), media_type="application/x-ndjson")

    async def logs(self, request: Request, _: web.Principal) -> Response:
        key = _key(request)
        stream = request.path_params["stream"]
        if stream not in STREAM_FILES:
            raise NotFound(f"there is no stream {stream!r}", hint="stdout or stderr")
        limit = _number(request, "limit", MAX_READ, least=1, most=MAX_READ)
        wait = min(MAX_WAIT, _seconds(request, "wait"))
        path = folder_of(self._attempts, key) / "io" / STREAM_FILES[stream]
        ended = await self._agent.has_ended(key)
        if "tail" in request.query_params:
            offset = await self._threads.call(tail_offset, path, _number(request, "tail", 0))
        else:
            offset = _number(request, "offset", 0)
        part, ended = await self._read(key, path, offset, limit, wait, ended=ended)
        headers = {
            HEADER_OFFSET: str(part.offset),
            HEADER_SIZE: str(part.size),
            HEADER_ENDED: str(int(ended)),
        }
        return Response(part.data, media_type="application/octet-stream", headers=headers)

    async def _read(
        self, key: Key, path: Path, offset: int, limit: int, wait: float, *, ended: bool
    ) -> tuple[Part, bool]:
        """Read, and while there is nothing new wait for bytes or the end. The end is looked up before the
        bytes are read: what it says then holds for them."""
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            part = await self._threads.call(read, path, offset, limit)
            left = deadline - asyncio.get_running_loop().time()
            if part.data or ended or left <= 0:
                return part, ended
            over = self._agent.end_of(key)
            if over is None or over.is_set():
                await asyncio.sleep(0.005)
            else:
                await until(over, min(left, LOOK_INTERVAL))
            ended = await self._agent.has_ended(key)


def create_app(api: Api, host_token: str) -> Starlette:
    """The application; its only credential is the host's."""
    expected = hashlib.sha256(host_token.encode()).digest()

    def authenticate(token: str) -> web.Principal | None:
        given = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        return web.Principal("host", Kind.HOST, "host") if hmac.compare_digest(given, expected) else None

    handlers: dict[str, web.Handler] = {
        "health": api.health,
        "order": api.order,
        "intent": api.intent,
        "signal": api.signal,
        "stdin": api.stdin,
        "logs": api.logs,
        "prefetch": api.prefetch,
    }
    return web.build(RUNNER_ROUTES, handlers, authenticate)


def _key(request: Request) -> Key:
    found = []
    for part in ("task", "attempt"):
        text = request.path_params[part]
        if not (text.isascii() and text.isdigit() and int(text[:19]) > 0 and len(text) < 19):
            raise UsageError(f"{part} must be a positive whole number")
        found.append(int(text))
    return found[0], found[1]


def _number(request: Request, name: str, default: int, *, least: int = 0, most: int = 2**62) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise UsageError(f"{name} must be a whole number from {least} to {most}")
    return int(text)


def _seconds(request: Request, name: str) -> float:
    text = request.query_params.get(name, "0")
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e9:
        raise UsageError(f"{name} must be a number of seconds")
    return found
