"""A host as the TUI sees one: real HTTP on loopback that speaks the documented stream and verbs."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.websockets import WebSocket

from hakuriver.endpoint import Endpoint
from hakuriver.errors import HakuRiverError, NotFound
from hakuriver.views import EnvironmentView, GpuView, NodeView, TaskView, VersionView
from tests.tui.peer_environments import environment_routes

if TYPE_CHECKING:
    from tests.tui.peer_shells import PeerShell

TOKEN = "peer-token-peer-token-peer"


def node(name: str, **facts: Any) -> NodeView:
    view: dict[str, Any] = {
        "name": name,
        "state": "online",
        "reason": "",
        "address": "http://127.0.0.1:1",
        "cores": 8.0,
        "cores_free": 5.0,
        "memory": 16_000_000_000,
        "memory_free": 12_000_000_000,
        "numa": [],
        "gpus": [],
        "executors": ["process"],
        "unavailable": {},
        "cpu": None,
        "engines": {},
        "labels": {},
        "drained": False,
        "drain_reason": None,
        "usage": {
            "cpu_percent": 40.0,
            "load": 3.25,
            "memory_used": 3_000_000_000,
            "disk_free": None,
            "temperature": None,
        },
        "tasks": 3,
        "version": "0.4.0",
        "boot_id": "b",
        "registered_at": "2026-01-31T12:00:00.000Z",
        "seen_at": "2026-01-31T12:00:00.000Z",
    }
    return view | facts  # type: ignore[return-value]


def gpu(index: int, **facts: Any) -> GpuView:
    view: dict[str, Any] = {
        "index": index,
        "uuid": f"GPU-{index:08x}",
        "model": "NVIDIA A100-SXM4-80GB",
        "memory": 80_000_000_000,
        "memory_used": 1_000_000_000,
        "utilization": 0.0,
        "temperature": 34.0,
        "power": 61.0,
        "numa": None,
        "task": None,
        "external": False,
        "lost": None,
        "mig": False,
        "parent": None,
        "processes": [],
    }
    return view | facts  # type: ignore[return-value]


def gpu_node(name: str, count: int = 8, *, held: dict[int, int] | None = None, **facts: Any) -> NodeView:
    """A machine with GPUs, half of them on each of two NUMA nodes; ``held``: GPU → task that works on it."""
    half = count // 2
    busy = {"memory_used": 61_000_000_000, "utilization": 97.0, "temperature": 71.0, "power": 312.0}
    found = [
        gpu(i, numa=int(i >= half), **({"task": held[i]} | busy if held and i in held else {}))
        for i in range(count)
    ]
    numa = [
        {
            "id": i,
            "cpus": list(range(i * 32, i * 32 + 32)),
            "memory": 256_000_000_000,
            "memory_free": None,
            "distances": [],
        }
        for i in range(2)
    ]
    size: dict[str, Any] = {
        "cores": 64.0,
        "cores_free": 48.0,
        "memory": 512_000_000_000,
        "memory_free": 400_000_000_000,
    }
    return node(name, **(size | {"gpus": found, "numa": numa} | facts))


def task(id: int, **facts: Any) -> TaskView:
    view: dict[str, Any] = {
        "id": id,
        "batch": id,
        "kind": "command",
        "name": None,
        "tags": [],
        "owner": "ann",
        "state": "completed",
        "reason": "",
        "command": ["sleep", str(id)],
        "target": None,
        "node": "n1",
        "numa": None,
        "gpus": [],
        "gpu_uuids": [],
        "cores": 1.0,
        "memory": 0,
        "on_node_loss": "keep",
        "priority": 0,
        "time_limit": None,
        "retries": 0,
        "retried": 0,
        "after": [],
        "on_hold": False,
        "batch_index": 0,
        "batch_size": 1,
        "max_running": None,
        "wants": {},
        "executor": "process",
        "container": None,
        "image": None,
        "version": None,
        "image_digest": None,
        "workdir": None,
        "attempt": 1,
        "exit_code": 0,
        "signal": None,
        "error": None,
        "oom_events": 0,
        "intent": None,
        "intent_by": None,
        "intent_due_at": None,
        "created_at": "2026-01-31T12:00:00.000Z",
        "assigned_at": None,
        "started_at": "2026-01-31T12:00:00.000Z",
        "ended_at": "2026-01-31T12:00:09.000Z",
    }
    return view | facts  # type: ignore[return-value]


def pending(id: int, reason: str = "waiting for 4 cores", **facts: Any) -> TaskView:
    waits = {"state": "pending", "reason": reason, "node": None, "executor": None, "started_at": None}
    return task(id, **(waits | {"ended_at": None, "exit_code": None} | facts))


def running(id: int, **facts: Any) -> TaskView:
    return task(id, **({"state": "running", "ended_at": None, "exit_code": None} | facts))


class Peer:
    """Holds nodes, tasks, environments and logs; all open streams hear of changes. ``seen``: the requests."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeView] = {}
        self.tasks: dict[int, TaskView] = {}
        self.environments: dict[str, EnvironmentView] = {}
        self.versions: dict[str, list[VersionView]] = {}
        self.answering: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        """Lines of what takes long, as the test lets them go; None ends the answer."""
        self.logs: dict[tuple[int, str], bytes] = {}
        self.log_ended = False
        self.seen: list[tuple[str, str, Any]] = []
        self.attempts: dict[int, list[dict[str, Any]]] = {}
        self.explained: dict[int, dict[str, Any]] = {}
        self.refuse_submit: dict[str, Any] | None = None
        self.refuse: dict[int, HakuRiverError] = {}
        self.shells: dict[str, PeerShell] = {}
        self.sockets: list[WebSocket] = []
        self.refuse_shell = False
        self.port = 0
        self._sequence = 0
        self._streams: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._grown = asyncio.Event()
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.port}", TOKEN)

    def put(self, *views: Any) -> None:
        for view in views:
            if "base" in view:
                self.environments[view["name"]] = view
                self.tell_environments()
                continue
            kind = "node" if "cores_free" in view else "task"
            if kind == "node":
                self.nodes[view["name"]] = view
            else:
                self.tasks[view["id"]] = view
            self._publish({"type": kind, kind: view})

    def tell_environments(self) -> None:
        self._publish({"type": "environments", "environments": list(self.environments.values())})

    def delete(self, *, id: int | None = None, name: str | None = None) -> None:
        if id is not None:
            del self.tasks[id]
            self._publish({"type": "deleted", "id": id})
        if name is not None:
            del self.nodes[name]
            self._publish({"type": "deleted", "name": name})

    def write(self, id: int, text: bytes, stream: str = "stdout") -> None:
        self.logs[id, stream] = self.logs.get((id, stream), b"") + text
        self._grown.set()
        self._grown = asyncio.Event()

    def send(self, line: dict[str, Any]) -> None:
        """Any line, as it is."""
        self._publish(line)

    @property
    def cursor(self) -> str:
        return f"1-{self._sequence}"

    @property
    def streams(self) -> int:
        return len(self._streams)

    def _publish(self, line: dict[str, Any]) -> None:
        self._sequence += 1
        for queue in self._streams:
            queue.put_nowait({"cursor": self.cursor} | line)

    def snapshot(self) -> dict[str, Any]:
        cluster = {
            "cluster": "c",
            "epoch": 1,
            "version": "0.4.0",
            "wire": 1,
            "embedded": True,
            "subject": "ann",
            "cursor": self.cursor,
        }
        return {
            "type": "snapshot",
            "cursor": self.cursor,
            "cluster": cluster,
            "nodes": list(self.nodes.values()),
            "environments": list(self.environments.values()),
            "tasks": list(self.tasks.values()),
        }

    async def start(self, port: int = 0) -> None:
        from tests.tui.peer_shells import shell_routes  # its pty knows somebody at the keyboard, who knows us

        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        self.port = listening.getsockname()[1]
        app = Starlette(
            routes=[
                Route("/api/watch", self._watch),
                Route("/api/tasks", self._submit, methods=["POST"]),
                Route("/api/tasks/intents", self._intents, methods=["POST"]),
                Route("/api/tasks/{id:int}", self._task),
                Route("/api/tasks/{id:int}/explain", self._explain),
                Route("/api/batches/{id:int}", self._batch),
                Route("/api/nodes/{name}/{verb}", self._node_verb, methods=["POST"]),
                *shell_routes(self),
                *environment_routes(self),
                Route("/api/tasks/{id:int}/logs/{stream}", self._logs),
                Route("/api/tasks/{id:int}/{verb}", self._verb, methods=["POST"]),
            ]
        )
        config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started:
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        assert self._server is not None and self._serving is not None
        for queue in self._streams:
            queue.put_nowait(None)
        for shell in self.shells.values():
            await shell.end()
        self.answering.put_nowait(None)
        self._grown.set()
        self._server.should_exit = True
        await self._serving

    async def _watch(self, request: Request) -> Response:
        since = request.query_params.get("since")
        self.seen.append(("GET", "watch", since))
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        first = {"type": "alive", "cursor": self.cursor} if since == self.cursor else self.snapshot()
        self._streams.add(queue)

        async def lines() -> AsyncIterator[bytes]:
            try:
                yield json.dumps(first, ensure_ascii=False).encode() + b"\n"
                while (line := await queue.get()) is not None:
                    yield json.dumps(line, ensure_ascii=False).encode() + b"\n"
            finally:
                self._streams.discard(queue)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def _task(self, request: Request) -> Response:
        found = self.tasks.get(request.path_params["id"])
        if found is None:
            error = NotFound("there is no such task")
            return JSONResponse(error.to_json(), error.http_status)
        return JSONResponse({**found, "attempts": self.attempts.get(found["id"], [])})

    async def _explain(self, request: Request) -> Response:
        id = request.path_params["id"]
        self.seen.append(("GET", f"explain {id}", None))
        found = self.tasks[id]
        told: dict[str, Any] = {"ahead": 0, "reserved": None, "reserved_at": None, "nodes": []}
        told |= {"id": id, "state": found["state"], "reason": found["reason"]}
        return JSONResponse(told | self.explained.get(id, {}))

    async def _batch(self, request: Request) -> Response:
        mine = [each for each in self.tasks.values() if each["batch"] == request.path_params["id"]]
        states = Counter(each["state"] for each in mine)
        return JSONResponse(
            {"batch": mine[0]["batch"], "size": len(mine), "states": states, "max_running": None}
        )

    async def _node_verb(self, request: Request) -> Response:
        name, verb = request.path_params["name"], request.path_params["verb"]
        body = await request.json()
        self.seen.append(("POST", f"{verb} {name}", body))
        drained = {"drained": verb == "drain", "drain_reason": body.get("reason") or None}
        self.put({**self.nodes[name], **(drained if verb != "remove" else {"state": "removed"})})
        return JSONResponse(self.nodes[name])

    async def _intents(self, request: Request) -> Response:
        body = await request.json()
        verb = body["verb"]
        self.seen.append(("POST", f"{verb} {','.join(map(str, body['tasks']))}", body))
        held = {"intent": "kill", "intent_by": "ann", "intent_due_at": "2026-01-31T12:00:05.000Z"}
        becomes: dict[str, dict[str, Any]] = {
            "pause": {"state": "paused"},
            "resume": {"state": "running"},
            "kill": held,
            "unkill": dict.fromkeys(held),
            "hold": {"on_hold": True, "reason": "held by ann"},
            "release": {"on_hold": False, "reason": ""},
        }
        refused = [
            {"id": id, "status": 409, **self.refuse[id].to_json()}
            for id in body["tasks"]
            if id in self.refuse
        ]
        told = [id for id in body["tasks"] if id not in self.refuse]
        self.put(*({**self.tasks[id], **becomes[verb]} for id in told))
        return JSONResponse({"items": [self.tasks[id] for id in told], "refused": refused})

    async def _verb(self, request: Request) -> Response:
        """What is asked of one task: to be submitted again, or moved."""
        id, verb = request.path_params["id"], request.path_params["verb"]
        self.seen.append(("POST", f"{verb} {id}", await request.json()))
        if id in self.refuse:
            return JSONResponse(self.refuse[id].to_json(), self.refuse[id].http_status)
        if verb == "resubmit":
            return self._made(self.tasks[id]["command"], {})
        self.put({**self.tasks[id], "state": "pending"})
        return JSONResponse(self.tasks[id])

    async def _submit(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(("POST", "submit", body))
        if self.refuse_submit is not None:
            return JSONResponse({"error": self.refuse_submit}, 422)
        return self._made(body["command"], body)

    def _made(self, command: list[str], body: dict[str, Any]) -> Response:
        made = pending(max(self.tasks, default=0) + 1, command=command)
        self.put(made)
        warnings = (
            ["GPU 5 of gpu-1 is used by somebody else"] if "gpu-1::5" in body.get("targets", []) else []
        )
        return JSONResponse({"batch": made["id"], "tasks": [made], "refused": [], "warnings": warnings}, 201)

    async def _logs(self, request: Request) -> Response:
        key = request.path_params["id"], request.path_params["stream"]
        query = request.query_params
        data = self.logs.get(key, b"")
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 2**20))
        self.seen.append(("GET", f"logs {key[0]}", (offset, limit)))
        if "tail" in query:
            lines = data.splitlines(keepends=True)[-int(query["tail"]) :]
            offset = len(data) - sum(map(len, lines))
        if float(query.get("wait", 0)) and offset >= len(data) and not self.log_ended:
            grown = self._grown
            await asyncio.wait([asyncio.ensure_future(grown.wait())], timeout=float(query["wait"]))
            data = self.logs.get(key, b"")
        part = data[offset : offset + limit]
        headers = {
            "HakuRiver-Offset": str(offset),
            "HakuRiver-Size": str(len(data)),
            "HakuRiver-Ended": "1" if self.log_ended else "0",
        }
        return Response(part, headers=headers, media_type="application/octet-stream")


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Signals belong to the test."""


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
