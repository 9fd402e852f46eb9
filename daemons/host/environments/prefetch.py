"""A version on nodes before any task needs it there: each node loads it on its own and says how far it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from daemons.common.log import Log
from daemons.common.web import Handler, Principal, read_body
from daemons.host.context import Host
from daemons.host.dispatcher import Dispatcher
from daemons.host.environments import catalog
from daemons.host.environments.work import error_fields
from daemons.host.nodes import Nodes
from daemons.host.routes import query
from hakuriver.environments import Reference
from hakuriver.errors import CannotFit, HakuRiverError, Internal, NotFound, Unreachable
from hakuriver.lifecycle import NodeState
from hakuriver.nodewire import EnvironmentRef
from hakuriver.paths import runner_path
from hakuriver.views import VersionView, WorkLine
from hakuriver.wire import PrefetchRequest

INTERVAL = 0.25
"""Seconds between two lines about the same node."""
READ_TIMEOUT = 60.0
log = Log("environments")


def handlers(host: Host) -> dict[str, Handler]:
    """The handler by its route's name."""
    going: set[asyncio.Task[None]] = set()  # it goes on when the client leaves

    async def prefetch(request: Request, principal: Principal) -> Response:
        query.check_names(request, ())
        asked = await read_body(request, PrefetchRequest)
        wanted = Reference(request.path_params["name"], asked.version)
        row = await host.store.read(lambda connection: catalog.find_version(connection, wanted))
        version = await host.environments.versions.view(row.environment, row.version)
        shown = _Shown(principal.subject)
        work = _Prefetch(host.dispatcher, host.nodes, catalog.ref(row), version, shown)
        for name in choose(host.nodes, asked.nodes):
            shown.open += 1
            task = asyncio.create_task(work.run(name))
            going.add(task)
            task.add_done_callback(going.discard)
        return StreamingResponse(shown.lines(), media_type="application/x-ndjson")

    return {"prefetch": prefetch}


def choose(nodes: Nodes, named: Sequence[str]) -> list[str]:
    """Where it is to be loaded: as named, else everywhere that is online; raises NotFound."""
    for name in named:
        if nodes.get(name) is None:
            raise NotFound(f"there is no node {name}", hint="hakuriver nodes lists them")
    if named:
        return list(dict.fromkeys(named))
    found = [name for name in nodes.names() if _state(nodes, name) == NodeState.ONLINE]
    if not found:
        raise Unreachable("no node is online", hint="hakuriver nodes shows why")
    return found


def _state(nodes: Nodes, name: str) -> str:
    known = nodes.get(name)
    return NodeState.REMOVED if known is None else known.row.state


@dataclass(slots=True)
class _Shown:
    """What the client reads: of each node its newest line, and its last one always."""

    by: str
    open: int = 0
    news: dict[str, WorkLine] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, node: str, line: WorkLine) -> None:
        self.news[node] = {**line, "node": node}
        self.changed.set()

    async def lines(self) -> AsyncIterator[bytes]:
        """NDJSON, until each node has said its last."""
        while self.open or self.news:
            await self.changed.wait()
            self.changed.clear()
            news, self.news = self.news, {}
            for line in news.values():
                yield json.dumps(line, ensure_ascii=False).encode() + b"\n"
            await asyncio.sleep(INTERVAL)


@dataclass(frozen=True, slots=True)
class _Prefetch:
    """One version, told to one node after the other."""

    dispatcher: Dispatcher
    nodes: Nodes
    ref: EnvironmentRef
    version: VersionView
    shown: _Shown

    async def run(self, name: str) -> None:
        """Let one node load it; whatever goes wrong is this node's alone."""
        try:
            last = await self._load(name)
        except HakuRiverError as error:
            log.warning("prefetch_failed", environment=self.ref.name, node=name, error=error.message)
            last = WorkLine(type="error", error=error_fields(error))
        except Exception as error:  # noqa: BLE001  a bug in one must not end the others
            log.unexpected("prefetch_failed", error, environment=self.ref.name, node=name)
            ours = Internal("something unexpected went wrong", hint="the host's log has the details")
            last = WorkLine(type="error", error=error_fields(ours))
        self.shown.open -= 1
        self.shown.say(name, last)

    async def _load(self, name: str) -> WorkLine:
        known = self.nodes.get(name)
        if known is None or not known.online:
            raise Unreachable(f"node {name} is {_state(self.nodes, name)}", code="node_unreachable")
        if "docker" not in known.facts.executors:
            why = known.facts.unavailable.get("docker", "it has no Docker engine")
            raise CannotFit(f"node {name} can't run containers: {why}", code="no_executor")
        body = self.ref.model_dump_json().encode()
        path = runner_path("prefetch")
        async with self.dispatcher.open(
            name, "POST", path, query={}, body=body, timeout=READ_TIMEOUT
        ) as answer:
            async for line in _objects(answer):
                if line.get("type") == "progress" and isinstance(line.get("work"), dict):
                    work = {**line["work"], "by": self.shown.by}
                    self.shown.say(name, {"type": "progress", "work": work})  # type: ignore[typeddict-item]
                elif line.get("type") == "done":
                    return WorkLine(type="done", version=self.version)
                elif isinstance(line.get("error"), dict):
                    return WorkLine(type="error", error=line["error"])
        raise Unreachable(f"node {name} broke off", code="node_unreachable")


async def _objects(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The lines of an answer; what makes no sense is left out."""
    async for text in answer.aiter_lines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line
