"""The one table of routes of both APIs, and who may use them.

The daemons mount exactly these rows (a handler without a row can't be reached, a row without a handler
stops the start), and clients build their addresses from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

HEADER_WIRE = "HakuRiver-Wire"
HEADER_MACHINE = "HakuRiver-Machine"
HEADER_IDEMPOTENCY = "Idempotency-Key"
HEADER_OFFSET = "HakuRiver-Offset"
"""Answer of a log read: byte offset of the first byte in the body."""
HEADER_SIZE = "HakuRiver-Size"
"""Answer of a log read: bytes the stream has so far."""
HEADER_ENDED = "HakuRiver-Ended"
"""Answer of a log read: ``1`` when the stream can't grow any more."""
HEADER_NOTE = "HakuRiver-Note"
"""Answer of a log read: one line about bytes that don't come from the node itself, in ASCII; else missing."""
WEBSOCKET = "WEBSOCKET"
"""The method of a route that is a WebSocket."""
MAX_STDIN = 2**20
"""Bytes of standard input in one request."""


class Kind(StrEnum):
    """What kind of principal a credential stands for."""

    USER = "user"
    NODE = "node"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path (or ``WEBSOCKET``), and the kinds of credential that may use it."""

    name: str
    method: str
    path: str
    kinds: frozenset[Kind]
    summary: str


_USER = frozenset({Kind.USER})
_NODE = frozenset({Kind.NODE})
_HOST = frozenset({Kind.HOST})

HOST_ROUTES: tuple[Route, ...] = (
    Route("cluster", "GET", "/api/cluster", _USER | _NODE, "which cluster this is"),
    Route("openapi", "GET", "/api/openapi.json", _USER, "this API, described"),
    Route("watch", "GET", "/api/watch", _USER, "snapshot, then every change, one JSON object a line"),
    Route("nodes", "GET", "/api/nodes", _USER, "all nodes"),
    Route("node", "GET", "/api/nodes/{name}", _USER, "one node"),
    Route("tasks", "GET", "/api/tasks", _USER, "a page of tasks, newest first"),
    Route("submit", "POST", "/api/tasks", _USER, "submit a task to one or more targets"),
    Route("task", "GET", "/api/tasks/{id}", _USER, "one task with all its attempts"),
    Route("show", "POST", "/api/tasks/show", _USER, "several tasks with all their attempts"),
    Route("kill", "POST", "/api/tasks/{id}/kill", _USER, "ask for a task's end"),
    Route("unkill", "DELETE", "/api/tasks/{id}/kill", _USER, "take back a kill that is still held"),
    Route("pause", "POST", "/api/tasks/{id}/pause", _USER, "ask for a pause"),
    Route("resume", "POST", "/api/tasks/{id}/resume", _USER, "ask for the end of a pause"),
    Route("requeue", "POST", "/api/tasks/{id}/requeue", _USER, "move a task away from a node that is lost"),
    Route("intents", "POST", "/api/tasks/intents", _USER, "kill, unkill, pause or resume many tasks"),
    Route("explain", "GET", "/api/tasks/{id}/explain", _USER, "why a task waits, and what would let it go"),
    Route("resubmit", "POST", "/api/tasks/{id}/resubmit", _USER, "submit the same once more"),
    Route("batch", "GET", "/api/batches/{id}", _USER, "how a batch stands"),
    Route("signal", "POST", "/api/tasks/{id}/signal", _USER, "send a signal to a running task, now or never"),
    Route("stdin", "POST", "/api/tasks/{id}/stdin", _USER, "feed bytes to the standard input of a task"),
    Route(
        "logs", "GET", "/api/tasks/{id}/logs/{stream}", _USER, "bytes of a log; offset, limit, tail, follow"
    ),
    Route("drain", "POST", "/api/nodes/{name}/drain", _USER, "place nothing more on a node"),
    Route("undrain", "POST", "/api/nodes/{name}/undrain", _USER, "use a drained node again"),
    Route("remove", "POST", "/api/nodes/{name}/remove", _USER, "forget a node that is not online"),
    Route("environments", "GET", "/api/environments", _USER, "all environments"),
    Route("create", "POST", "/api/environments", _USER, "make an environment's container from an image"),
    Route("environment", "GET", "/api/environments/{name}", _USER, "one environment"),
    Route("delete", "DELETE", "/api/environments/{name}", _USER, "delete its container; versions stay"),
    Route("start", "POST", "/api/environments/{name}/start", _USER, "start an environment's container"),
    Route("stop", "POST", "/api/environments/{name}/stop", _USER, "stop an environment's container"),
    Route("adopt", "POST", "/api/environments/{name}/adopt", _USER, "make it from a container on the host"),
    Route("pack", "POST", "/api/environments/{name}/pack", _USER, "make a version of its container"),
    Route("import", "POST", "/api/environments/{name}/import", _USER, "make a version of a tarball"),
    Route("versions", "GET", "/api/environments/{name}/versions", _USER, "its versions, newest first"),
    Route(
        "remove-version", "DELETE", "/api/environments/{name}/versions/{version}", _USER, "delete a version"
    ),
    Route("rollback", "POST", "/api/environments/{name}/rollback", _USER, "make another version current"),
    Route("prefetch", "POST", "/api/environments/{name}/prefetch", _USER, "load a version on nodes now"),
    Route(
        "tarball",
        "GET",
        "/api/environments/{name}/versions/{version}/tarball",
        _USER | _NODE,
        "the bytes of a version, by range",
    ),
    Route(
        "exec", WEBSOCKET, "/api/environments/{name}/exec", _USER, "a command or shell in its container, live"
    ),
    Route("register", "POST", "/api/nodes/register", _NODE, "a runner says who it is"),
    Route("heartbeat", "POST", "/api/nodes/{name}/heartbeat", _NODE, "a runner is alive"),
    Route("reports", "POST", "/api/nodes/{name}/reports", _NODE, "what became of attempts"),
    Route("goodbye", "POST", "/api/nodes/{name}/goodbye", _NODE, "a runner stops"),
)

RUNNER_ROUTES: tuple[Route, ...] = (
    Route("health", "GET", "/runner", _HOST, "which runner this is"),
    Route("order", "PUT", "/runner/attempts/{task}/{attempt}", _HOST, "run this attempt, at most once"),
    Route("intent", "PUT", "/runner/attempts/{task}/{attempt}/intent", _HOST, "run, pause or kill"),
    Route("signal", "POST", "/runner/attempts/{task}/{attempt}/signal", _HOST, "send a signal"),
    Route("stdin", "POST", "/runner/attempts/{task}/{attempt}/stdin", _HOST, "feed standard input"),
    Route("logs", "GET", "/runner/attempts/{task}/{attempt}/logs/{stream}", _HOST, "bytes of a log"),
    Route("prefetch", "POST", "/runner/environments", _HOST, "load a version now, saying how far it is"),
)


def host_path(name: str, /, **parts: str | int) -> str:
    """The path of a host route with its parts filled in (they must be URL-safe already)."""
    return _PATHS[name].format(**parts)


def runner_path(name: str, /, **parts: str | int) -> str:
    """The path of a runner route with its parts filled in."""
    return _RUNNER_PATHS[name].format(**parts)


_PATHS = {route.name: route.path for route in HOST_ROUTES}
_RUNNER_PATHS = {route.name: route.path for route in RUNNER_ROUTES}
