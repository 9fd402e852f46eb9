"""What both daemons' HTTP APIs share: one table of routes, one credential check, one form of errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from daemons.common.log import Log
from hakuriver import WIRE_VERSION, errors
from hakuriver.fields import clear_message
from hakuriver.paths import HEADER_WIRE, WEBSOCKET, Kind, Route

MAX_BODY = 16 * 2**20

log = Log("web")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request; ``owner`` of anything comes only from here."""

    subject: str
    kind: Kind
    role: str


Authenticate = Callable[[str], Principal | None]
Handler = Callable[[Request, Principal], Awaitable[Response]]
Socket = Callable[[WebSocket, Principal], Awaitable[None]]
"""Handles a WebSocket; errors that it raises before it accepts are answered like those of requests."""


def build(
    table: Sequence[Route],
    handlers: Mapping[str, Handler],
    authenticate: Authenticate,
    sockets: Mapping[str, Socket] | None = None,
) -> Starlette:
    """An application that serves exactly the rows of ``table``; raises when the two don't match."""
    sockets = sockets or {}
    names = {route.name for route in table}
    if names != set(handlers) | set(sockets):
        raise ValueError(f"routes without handler or row: {sorted(names ^ set(handlers) ^ set(sockets))}")
    return Starlette(
        routes=[
            WebSocketRoute(route.path, _socket(route, sockets[route.name]))
            if route.method == WEBSOCKET
            else StarletteRoute(route.path, _endpoint(route, handlers[route.name]), methods=[route.method])
            for route in table
        ],
        middleware=[Middleware(_Gate, authenticate=authenticate)],
        exception_handlers={
            errors.HakuRiverError: _render,
            HTTPException: _render_http,
            Exception: _render_unexpected,
        },
    )


def _endpoint(route: Route, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        principal: Principal = request.state.principal
        if principal.kind not in route.kinds:
            raise errors.NotAllowed(f"a {principal.kind} credential may not {route.method} {route.path}")
        try:
            return await handler(request, principal)
        except ClientDisconnect:
            return Response(status_code=499)

    return endpoint


def _socket(route: Route, handler: Socket) -> Callable[[WebSocket], Awaitable[None]]:
    async def endpoint(socket: WebSocket) -> None:
        principal: Principal = socket.state.principal
        try:
            if principal.kind not in route.kinds:
                raise errors.NotAllowed(f"a {principal.kind} credential may not open {route.path}")
            await handler(socket, principal)
        except WebSocketDisconnect:
            return
        except errors.HakuRiverError as error:
            if socket.application_state is not WebSocketState.CONNECTING:
                raise
            await socket.send_denial_response(JSONResponse(error.to_json(), error.http_status))

    return endpoint


class _Gate:
    """Nothing behind it is reached without a credential and a wire version that we speak."""

    def __init__(self, app: ASGIApp, authenticate: Authenticate) -> None:
        self._app = app
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        principal = self._authenticate(token) if scheme.lower() == "bearer" and token else None
        if principal is None:
            error: errors.HakuRiverError = errors.Unauthenticated(
                "no valid credential", hint="send the token of this cluster: --token-file or HAKURIVER_TOKEN"
            )
        elif headers.get(HEADER_WIRE, str(WIRE_VERSION)) != str(WIRE_VERSION):
            error = errors.UsageError(
                f"the request speaks API version {headers[HEADER_WIRE]!r}, this daemon {WIRE_VERSION}",
                hint="upgrade the older of the two",
                code="wire_version",
            )
        else:
            scope.setdefault("state", {})["principal"] = principal
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse(error.to_json(), error.http_status)
        if scope["type"] == "http":
            await refusal(scope, receive, send)
        else:
            await WebSocket(scope, receive, send).send_denial_response(refusal)


async def read_bytes(request: Request, limit: int = MAX_BODY) -> bytes:
    """The body, refused over ``limit`` bytes before it is held in memory."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise errors.UsageError(f"the body is larger than {limit} bytes", code="too_large")
        parts.append(part)
    return b"".join(parts)


async def read_body(request: Request, model: type[Model]) -> Model:
    """The body as a validated type; raises UsageError that names the first wrong field."""
    return validate(model, await read_bytes(request))


def validate(model: type[Model], body: bytes) -> Model:
    """JSON bytes as a validated type."""
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise errors.UsageError(
            clear_message(error.errors(include_url=False)), code="invalid_body"
        ) from error


def answer(model: BaseModel) -> Response:
    """A typed answer as JSON."""
    return Response(model.model_dump_json(), media_type="application/json")


async def _render(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.HakuRiverError)
    return JSONResponse(error.to_json(), error.http_status)


async def _render_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {
        404: errors.NotFound(f"there is no {request.url.path}", code="no_such_route"),
        405: errors.UsageError(f"{request.url.path} has no {request.method}", code="no_such_method"),
    }
    ours = known.get(error.status_code) or errors.UsageError(str(error.detail))
    return JSONResponse(ours.to_json(), error.status_code, headers=error.headers)


async def _render_unexpected(request: Request, error: Exception) -> Response:
    log.unexpected("request_failed", error, method=request.method, path=request.url.path)
    ours = errors.Internal("something unexpected went wrong", hint="the daemon's log has the details")
    return JSONResponse(ours.to_json(), ours.http_status)
