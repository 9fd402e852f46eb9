"""A runner as the host knows one: a real HTTP server that speaks the wire protocol, and remembers."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from daemons.common import web
from hakuriver.aio import AsyncClient
from hakuriver.errors import HakuRiverError, NotFound
from hakuriver.nodewire import Answer, AttemptOrder, EnvironmentRef, IntentOrder, OrderAnswer
from hakuriver.paths import HEADER_ENDED, HEADER_OFFSET, HEADER_SIZE, RUNNER_ROUTES, Kind, host_path
from hakuriver.wire import SignalRequest

Key = tuple[int, int]
USAGE = {"cpu_percent": 12.5, "load": 0.5, "memory_used": 1000}


@asynccontextmanager
async def serving(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """An application behind real HTTP on a loopback port; yields its address."""
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(512)
    server = uvicorn.Server(
        uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)
    )
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup(sockets=[listening])
    task = asyncio.create_task(server.main_loop())
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        await server.shutdown(sockets=[listening])


class Peer:
    """One node. ``orders`` and ``intents`` are what it was told; ``refuse`` is its answer to any order."""

    def __init__(self, name: str, host: AsyncClient, host_token: str) -> None:
        self.name = name
        self.runner = secrets.token_hex(16)
        self.address = ""
        self.version = 0
        self.epoch = 0
        self.orders: dict[Key, AttemptOrder] = {}
        self.puts: list[Key] = []
        self.intents: list[tuple[Key, IntentOrder]] = []
        self.signals: list[tuple[Key, int]] = []
        self.fed = b""
        self.prefetched: list[EnvironmentRef] = []
        self.logs: dict[tuple[Key, str], bytes] = {}
        self.ended: set[Key] = set()
        self.refuse: HakuRiverError | None = None
        self.refuse_intent: HakuRiverError | None = None
        self.refuse_logs: HakuRiverError | None = None
        self.changed = asyncio.Event()
        self._host = host
        self._token = hashlib.sha256(host_token.encode()).digest()
        self._sequences: dict[Key, int] = {}

    # What the host says

    def app(self) -> ASGIApp:
        handlers: dict[str, web.Handler] = {
            "health": self._health,
            "order": self._order,
            "intent": self._intent,
            "signal": self._signal,
            "stdin": self._stdin,
            "logs": self._logs,
            "prefetch": self._prefetch,
        }

        def authenticate(token: str) -> web.Principal | None:
            known = hashlib.sha256(token.encode()).digest() == self._token
            return web.Principal("host", Kind.HOST, "host") if known else None

        return web.build(RUNNER_ROUTES, handlers, authenticate)

    async def _health(self, _: Request, __: web.Principal) -> Response:
        return JSONResponse({"name": self.name})

    async def _order(self, request: Request, _: web.Principal) -> Response:
        order = await web.read_body(request, AttemptOrder)
        key = _key(request)
        self.puts.append(key)
        self.changed.set()
        if self.refuse is not None:
            raise self.refuse
        assert order.digest == order.spec.digest()
        new = key not in self.orders
        self.orders[key] = order
        self.version += 1
        return web.answer(OrderAnswer(accepted=new, journal_version=self.version))

    async def _intent(self, request: Request, _: web.Principal) -> Response:
        self.intents.append((_key(request), await web.read_body(request, IntentOrder)))
        self.changed.set()
        if self.refuse_intent is not None:
            raise self.refuse_intent
        return web.answer(Answer())

    async def _signal(self, request: Request, _: web.Principal) -> Response:
        self.signals.append((_key(request), (await web.read_body(request, SignalRequest)).signal))
        return web.answer(Answer())

    async def _stdin(self, request: Request, _: web.Principal) -> Response:
        self.fed += await request.body()
        return JSONResponse({"offset": len(self.fed)})

    async def _logs(self, request: Request, _: web.Principal) -> Response:
        key, stream = _key(request), request.path_params["stream"]
        if self.refuse_logs is not None:
            raise self.refuse_logs
        if key not in self.orders:
            raise NotFound("this node doesn't know it")
        data = self.logs.get((key, stream), b"")
        offset = int(request.query_params.get("offset", "0"))
        piece = data[offset : offset + int(request.query_params.get("limit", 2**20))]
        headers = {HEADER_OFFSET: str(offset), HEADER_SIZE: str(len(data))}
        headers[HEADER_ENDED] = "1" if key in self.ended else "0"
        return Response(piece, headers=headers)

    async def _prefetch(self, request: Request, _: web.Principal) -> Response:
        self.prefetched.append(await web.read_body(request, EnvironmentRef))
        return Response(b'{"type": "done"}\n', media_type="application/x-ndjson")

    # What it says to the host

    async def register(self, *, cluster: str = "", high_water: int = 0, **facts: Any) -> Any:
        known = {
            "cores": 2,
            "memory": 8 * 2**30,
            "executors": ["process"],
            "boot_id": "boot",
            "version": "0.4.0",
        }
        body: dict[str, Any] = {"name": self.name, "runner": self.runner, "address": self.address}
        body["facts"] = known | facts
        body["cluster"] = cluster
        body["high_water"] = high_water
        answer = await self._host.request("POST", host_path("register"), body=body)
        self.epoch = answer["epoch"]
        if facts.get("gpus"):
            await self.heartbeat()  # as runners do: before, nobody knows who uses them
        return answer

    async def heartbeat(self, attempts: Sequence[Key] | None = None, **more: Any) -> Any:
        live = [key for key in self.orders if key not in self.ended] if attempts is None else attempts
        body = {"runner": self.runner, "boot_id": "boot", "journal_version": self.version, "usage": USAGE}
        body["epoch"] = self.epoch
        return await self._host.request(
            "POST", host_path("heartbeat", name=self.name), body=body | {"attempts": live} | more
        )

    async def goodbye(self) -> Any:
        return await self._host.request(
            "POST", host_path("goodbye", name=self.name), body={"runner": self.runner}
        )

    async def report(self, key: Key, state: str, **facts: Any) -> str:
        """One report under the next sequence number of its attempt; returns the host's decision."""
        sequence = self._sequences[key] = self._sequences.get(key, 0) + 1
        return (await self.send(report(key, state, sequence, **facts)))[0]

    async def send(self, *reports: dict[str, Any]) -> list[str]:
        """Reports as they are; returns the host's decisions."""
        body = {"runner": self.runner, "reports": reports}
        answer = await self._host.request("POST", host_path("reports", name=self.name), body=body)
        return [each["result"] for each in answer["results"]]

    async def wait(self, what: Callable[[], Any], seconds: float = 30) -> Any:
        """What becomes true of the things this node is told."""
        return await eventually(what, seconds)


def report(key: Key, state: str, sequence: int, **facts: Any) -> dict[str, Any]:
    """A report as it goes over the wire."""
    return {
        "task": key[0],
        "attempt": key[1],
        "sequence": sequence,
        "state": state,
        "at": datetime.now(UTC).isoformat(),
        **facts,
    }


async def eventually(what: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true answer of ``what``, a coroutine function or a plain one; fails when none comes."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        found = what()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert loop.time() < deadline, f"not within {seconds:g} s; last seen: {found!r}"
        await asyncio.sleep(0.01)


def _key(request: Request) -> Key:
    return int(request.path_params["task"]), int(request.path_params["attempt"])
