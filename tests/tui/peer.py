"""A host as the TUI sees one: real HTTP on loopback that speaks the documented stream and verbs."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hakuriver.endpoint import Endpoint
from hakuriver.errors import Conflict, NotFound
from hakuriver.views import NodeView, TaskView

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
        "executor": "process",
        "container": None,
        "image": None,
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


def running(id: int, **facts: Any) -> TaskView:
    return task(id, **({"state": "running", "ended_at": None, "exit_code": None} | facts))


class Peer:
    """Holds nodes, tasks and logs; every change goes to all open streams. ``seen`` are the requests."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeView] = {}
        self.tasks: dict[int, TaskView] = {}
        self.logs: dict[tuple[int, str], bytes] = {}
        self.log_ended = False
        self.seen: list[tuple[str, str, Any]] = []
        self.refuse_submit: dict[str, Any] | None = None
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
            kind = "node" if "cores_free" in view else "task"
            if kind == "node":
                self.nodes[view["name"]] = view
            else:
                self.tasks[view["id"]] = view
            self._publish({"type": kind, kind: view})

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
            "tasks": list(self.tasks.values()),
        }

    async def start(self, port: int = 0) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        self.port = listening.getsockname()[1]
        app = Starlette(
            routes=[
                Route("/api/watch", self._watch),
                Route("/api/tasks", self._submit, methods=["POST"]),
                Route("/api/tasks/{id:int}", self._task),
                Route("/api/tasks/{id:int}/logs/{stream}", self._logs),
                Route("/api/tasks/{id:int}/{verb}", self._verb, methods=["POST", "DELETE"]),
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
        return JSONResponse({**found, "attempts": []})

    async def _verb(self, request: Request) -> Response:
        id, verb = request.path_params["id"], request.path_params["verb"]
        body = await request.body()
        self.seen.append((request.method, f"{verb} {id}", json.loads(body or b"null")))
        if id not in self.tasks:
            error = Conflict("it is gone")
            return JSONResponse(error.to_json(), error.http_status)
        held = {"intent": "kill", "intent_by": "ann", "intent_due_at": "2026-01-31T12:00:05.000Z"}
        changes: dict[str, Any] = {
            "pause": {"state": "paused"},
            "resume": {"state": "running"},
            "kill": held if request.method == "POST" else dict.fromkeys(held),
        }.get(verb, {})
        self.put({**self.tasks[id], **changes})
        return JSONResponse(self.tasks[id])

    async def _submit(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(("POST", "submit", body))
        if self.refuse_submit is not None:
            return JSONResponse({"error": self.refuse_submit}, 422)
        made = task(max(self.tasks, default=0) + 1, state="pending", command=body["command"], node=None)
        self.put(made)
        return JSONResponse({"batch": made["id"], "tasks": [made], "refused": []}, 201)

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
