"""The API described as OpenAPI 3.1, made from the table of routes and the types on the wire."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from daemons.host import jsonschema
from daemons.host.jsonschema import Schema, reference
from hakuriver import __version__, errors, nodewire, views, wire
from hakuriver.lifecycle import State
from hakuriver.paths import (
    HEADER_ENDED,
    HEADER_IDEMPOTENCY,
    HEADER_MACHINE,
    HEADER_NOTE,
    HEADER_OFFSET,
    HEADER_SIZE,
    HEADER_WIRE,
    HOST_ROUTES,
    WEBSOCKET,
    Route,
)

_BYTES = "application/octet-stream"
_LINES = "application/x-ndjson"
_SOCKET = "a WebSocket"
_ERROR_TYPES: tuple[type[errors.HakuRiverError], ...] = (
    errors.UsageError,
    errors.Unauthenticated,
    errors.NotAllowed,
    errors.NotFound,
    errors.Conflict,
    errors.CannotFit,
    errors.TooMany,
    errors.Internal,
    errors.Unreachable,
    errors.StorageFull,
)
_ALWAYS = (400, 401, 403, 500)


@dataclass(frozen=True, slots=True)
class _Doc:
    """What a route takes and gives, beyond what the table of routes says."""

    gives: Any
    takes: type[BaseModel] | str | None = None
    parameters: tuple[Schema, ...] = ()
    errors: tuple[int, ...] = ()
    status: int = 200
    optional: bool = False  # whether the body may be left out
    is_log: bool = False


def _query(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}


def _header(name: str, text: str) -> Schema:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "maxLength": 200},
        "description": text,
    }


_ID: Schema = {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}
_TEXT: Schema = {"type": "string"}
_OFFSET: Schema = {"type": "integer", "minimum": 0, "maximum": 2**62, "default": 0}
_ONE_TASK = (404, 409, 507)
_ON_NODE = (404, 409, 503)
_LONG = (404, 409, 429, 503, 507)
_DOCS: dict[str, _Doc] = {
    "cluster": _Doc(views.ClusterView),
    "openapi": _Doc(dict),
    "watch": _Doc(
        views.WatchLine,
        parameters=(
            _query("since", {"type": "string", "pattern": "^[0-9]+-[0-9]+$"}, "cursor to go on from"),
            _query(
                "tasks", {"type": "string", "pattern": "^[0-9]+(,[0-9]+)*$"}, "only these tasks, and no nodes"
            ),
        ),
    ),
    "nodes": _Doc(list[views.NodeView]),
    "node": _Doc(views.NodeView, errors=(404,)),
    "tasks": _Doc(
        views.TaskPage,
        parameters=(
            _query("state", _TEXT, f"comma list of live, ended, {', '.join(State)}"),
            _query("node", _TEXT, "only those on this node"),
            _query("owner", _TEXT, "only this owner's; @me is the caller"),
            _query("tag", _TEXT, "only those with this tag"),
            _query("batch", _ID, "only this batch"),
            _query("kind", {"enum": ["command", "vps"]}, "only this kind"),
            _query("name", _TEXT, "only those with this name"),
            _query("machine", _TEXT, f"only those from this machine; @me is the one in {HEADER_MACHINE}"),
            _query(
                "limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}, "items a page"
            ),
            _query("cursor", _ID, "next of the page before"),
        ),
    ),
    "submit": _Doc(
        views.SubmitView,
        wire.SubmitRequest,
        (
            _header(HEADER_IDEMPOTENCY, "the same key and body is answered the same, once stored"),
            _header(HEADER_MACHINE, "name of the machine that submits"),
        ),
        (404, 409, 422, 429, 507),
        201,
    ),
    "resubmit": _Doc(
        views.SubmitView,
        parameters=(_header(HEADER_IDEMPOTENCY, "the same key is answered the same, once stored"),),
        errors=(404, 409, 422, 429, 507),
        status=201,
    ),
    "explain": _Doc(views.ExplainView, errors=(404,)),
    "batch": _Doc(views.BatchView, errors=(404,)),
    "drain": _Doc(views.NodeView, wire.DrainRequest, errors=(404, 507), optional=True),
    "undrain": _Doc(views.NodeView, errors=(404, 507)),
    "remove": _Doc(views.NodeView, wire.RemoveRequest, errors=_ONE_TASK, optional=True),
    "task": _Doc(views.TaskView, errors=(404,)),
    "show": _Doc(views.IntentsView, wire.TasksRequest),
    "kill": _Doc(views.TaskView, wire.KillRequest, errors=_ONE_TASK, optional=True),
    "unkill": _Doc(views.TaskView, errors=_ONE_TASK),
    "pause": _Doc(views.TaskView, errors=_ONE_TASK),
    "resume": _Doc(views.TaskView, errors=_ONE_TASK),
    "requeue": _Doc(views.TaskView, wire.RequeueRequest, errors=_ONE_TASK, optional=True),
    "intents": _Doc(views.IntentsView, wire.IntentsRequest, errors=(507,)),
    "signal": _Doc(views.TaskView, wire.SignalRequest, errors=_ON_NODE),
    "stdin": _Doc(
        views.StdinView,
        _BYTES,
        (
            _query("offset", _OFFSET, "bytes fed before these"),
            _query("eof", {"enum": [0, 1]}, "1 closes the input after these"),
        ),
        _ON_NODE,
        optional=True,
    ),
    "logs": _Doc(
        _BYTES,
        parameters=(
            _query("offset", _OFFSET, "first byte"),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 2**20}, "most bytes"),
            _query(
                "tail",
                {"type": "integer", "minimum": 0, "maximum": 2**31},
                "start so many lines before the end",
            ),
            _query("wait", {"type": "number", "minimum": 0, "maximum": 30}, "seconds to wait for more"),
            _query(
                "attempt", {"type": "integer", "minimum": 1, "maximum": 2**31}, "default: the current one"
            ),
        ),
        errors=(404, 503),
        is_log=True,
    ),
    "environments": _Doc(list[views.EnvironmentView]),
    "environment": _Doc(views.EnvironmentView, errors=(404,)),
    "create": _Doc(views.WorkLine, wire.CreateEnvironment, errors=_LONG),
    "adopt": _Doc(views.WorkLine, wire.AdoptContainer, errors=_LONG),
    "pack": _Doc(views.WorkLine, wire.PackRequest, errors=_LONG, optional=True),
    "import": _Doc(
        views.WorkLine,
        _BYTES,
        (
            _query("filename", _TEXT, "the tarball's name, which may tell its version: ENV-TIME.tar"),
            _query("note", {"type": "string", "maxLength": 400}, "shown in the list of versions"),
        ),
        _LONG,
    ),
    "start": _Doc(views.EnvironmentView, errors=_ON_NODE),
    "stop": _Doc(views.EnvironmentView, errors=_ON_NODE),
    "delete": _Doc(views.EnvironmentView, errors=_ON_NODE),
    "versions": _Doc(list[views.VersionView], errors=(404,)),
    "remove-version": _Doc(views.VersionView, errors=_ONE_TASK),
    "rollback": _Doc(views.EnvironmentView, wire.RollbackRequest, errors=_ONE_TASK, optional=True),
    "prefetch": _Doc(views.WorkLine, wire.PrefetchRequest, errors=_ON_NODE, optional=True),
    "tarball": _Doc(_BYTES, errors=(404, 503)),
    "exec": _Doc(_SOCKET, errors=_ON_NODE, status=101),
    "register": _Doc(nodewire.RegistrationAnswer, nodewire.Registration, errors=(409, 507)),
    "heartbeat": _Doc(nodewire.HeartbeatAnswer, nodewire.Heartbeat, errors=(409, 507)),
    "reports": _Doc(nodewire.ReportAnswer, nodewire.ReportBatch, errors=(404, 409, 507)),
    "goodbye": _Doc(nodewire.Answer, nodewire.Goodbye, errors=(409, 507)),
}
_PATH_SCHEMAS: dict[str, Schema] = {
    "id": _ID,
    "name": {"type": "string"},
    "stream": {"enum": ["stdout", "stderr"]},
    "version": {"type": "integer", "minimum": 0, "maximum": 10**12 - 1},
}
_WIRE_HEADER = _header(HEADER_WIRE, "version of this API that the client speaks; another is refused")


@cache
def document() -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, dict[str, Any]] = {}
    for route in HOST_ROUTES:
        method = "get" if route.method == WEBSOCKET else route.method.lower()
        paths.setdefault(route.path, {})[method] = _operation(route, _DOCS[route.name])
    return {
        "openapi": "3.1.0",
        "info": {"title": "HakuRiver", "version": __version__, "description": "The host's API."},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


def _operation(route: Route, doc: _Doc) -> dict[str, Any]:
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    parts = [{"name": name, "in": "path", "required": True, "schema": _PATH_SCHEMAS[name]} for name in names]
    found: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": f"For credentials of kind {', '.join(sorted(route.kinds))}.",
        "parameters": [*parts, *doc.parameters, _WIRE_HEADER],
        "responses": {str(doc.status): _answer(doc)} | _errors((*_ALWAYS, *doc.errors)),
    }
    if doc.takes is not None:
        found["requestBody"] = {"required": not doc.optional, "content": _content(doc.takes)}
    return found


def _content(given: Any) -> dict[str, Any]:
    if given == _BYTES:
        return {_BYTES: {"schema": {"type": "string", "format": "binary"}}}
    if given in (views.WatchLine, views.WorkLine):
        return {_LINES: {"schema": reference(given.__name__)}}
    if given is dict:
        return {"application/json": {"schema": {"type": "object"}}}
    if get_origin(given) is list:
        (item,) = get_args(given)
        return {"application/json": {"schema": {"type": "array", "items": reference(item.__name__)}}}
    return {"application/json": {"schema": reference(given.__name__)}}


def _answer(doc: _Doc) -> dict[str, Any]:
    if doc.gives == _SOCKET:
        return {"description": "the connection goes on as a WebSocket"}
    found: dict[str, Any] = {"description": "done", "content": _content(doc.gives)}
    if doc.is_log:
        found["headers"] = {
            name: {"description": text, "schema": {"type": "integer"}}
            for name, text in (
                (HEADER_OFFSET, "offset of the first byte of the body"),
                (HEADER_SIZE, "bytes the log has so far"),
                (HEADER_ENDED, "1 when the log can't grow any more"),
                (HEADER_NOTE, "why the bytes don't come from the node itself, where they don't"),
            )
        }
    return found


def _errors(statuses: Iterable[int]) -> dict[str, Any]:
    by_status = {kind.http_status: kind for kind in reversed(_ERROR_TYPES)}
    content = {"application/json": {"schema": reference("Error")}}
    return {
        str(status): {"description": by_status[status].code, "content": content}
        for status in sorted(set(statuses))
    }


def _schemas() -> dict[str, Schema]:
    gives = [each for doc in _DOCS.values() for each in (get_args(doc.gives) or (doc.gives,))]
    takes = [doc.takes for doc in _DOCS.values()]
    models = [each for each in (*takes, *gives) if isinstance(each, type) and issubclass(each, BaseModel)]
    shown = [each for each in gives if getattr(views, getattr(each, "__name__", ""), None) is each]
    error: Schema = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "hint"],
                "properties": {name: {"type": "string"} for name in ("code", "message", "hint")},
            }
        },
    }
    return {"Error": error, **jsonschema.of_models(models), **jsonschema.of_views(shown)}
