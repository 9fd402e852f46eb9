"""A real host over real HTTP and a real SQLite file, and runners that are nothing but the wire protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from daemons.host.app import create_app
from daemons.host.auth import Tokens, ensure_tokens
from daemons.host.context import Host, open_host
from daemons.host.main import database_lock
from daemons.host.migrate import migrate
from hakuriver import config, errors, statedir
from hakuriver.aio import AsyncClient
from hakuriver.api import Query
from hakuriver.paths import host_path
from tests.api.peer import Peer, eventually, serving

Task = dict[str, Any]


@dataclass
class Running:
    """A host that runs: its parts, clients of both kinds, and what people do with it."""

    host: Host
    url: str
    tokens: Tokens
    user: AsyncClient
    node: AsyncClient
    stack: AsyncExitStack
    loops: list[asyncio.Task[None]] = field(default_factory=list)

    async def peer(self, name: str = "n1", *, register: bool = True, **facts: Any) -> Peer:
        """A runner that is there until the test ends."""
        found = Peer(name, self.node, self.tokens.host)
        found.address = await self.stack.enter_async_context(serving(found.app()))
        if register:
            await found.register(**facts)
        return found

    async def submit(self, *command: str, **more: Any) -> Task:
        """One task, accepted."""
        found: Task = (await self.submit_all(*command, **more))["tasks"][0]
        return found

    async def submit_all(self, *command: str, headers: dict[str, str] | None = None, **more: Any) -> Any:
        """The whole answer of a submission."""
        body = {"command": list(command) or ["true"], **more}
        return await self.user.request("POST", host_path("submit"), body=body, headers=headers)

    async def task(self, number: int) -> Task:
        """A task as it is now."""
        found: Task = await self.user.request("GET", host_path("task", id=number))
        return found

    async def tasks(self, **query: Any) -> Any:
        """A page of tasks."""
        return await self.user.request("GET", host_path("tasks"), query=query)

    async def tell(self, number: int, verb: str, **body: Any) -> Task:
        """kill, pause, resume …"""
        method = "DELETE" if verb == "unkill" else "POST"
        found: Task = await self.user.request(method, host_path(verb, id=number), body=body)
        return found

    async def tell_all(self, numbers: list[int], verb: str) -> None:
        """The same for many, in one request; raises the first refusal."""
        body = {"tasks": numbers, "verb": verb}
        answer = await self.user.request("POST", host_path("intents"), body=body)
        for refused in answer["refused"]:
            raise errors.from_json(refused["status"], refused)

    async def until(self, number: int, **wanted: Any) -> Task:
        """The task as soon as it has these facts."""

        async def look() -> Task | None:
            found = await self.task(number)
            return found if all(found[key] == value for key, value in wanted.items()) else None

        found: Task = await eventually(look)
        return found

    async def running_on(self, peer: Peer, *command: str, **more: Any) -> Task:
        """A task that was submitted, ordered and reported as running."""
        made = await self.submit(*command, **more)
        key = (made["id"], 1)
        await eventually(lambda: key in peer.orders)
        assert await peer.report(key, "running") == "applied"
        return made

    def watch(self, **query: Any) -> AbstractAsyncContextManager[Watcher]:
        """An open watch stream."""
        return _watch(self.user, query)


class Watcher:
    """The lines of a watch stream, one at a time."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def next(self, *kinds: str, seconds: float = 30) -> dict[str, Any]:
        """The next line of one of these types."""
        async with asyncio.timeout(seconds):
            async for text in self._lines:
                line: dict[str, Any] = json.loads(text)
                if not kinds or line["type"] in kinds:
                    return line
        raise AssertionError("the stream ended")

    async def task(self, number: int, state: str) -> dict[str, Any]:
        """The line that says that a task is in a state."""
        while True:
            line = await self.next("task")
            if line["task"]["id"] == number and line["task"]["state"] == state:
                return line


@asynccontextmanager
async def _watch(client: AsyncClient, query: Query) -> AsyncIterator[Watcher]:
    async with client.open("GET", host_path("watch"), query=query, timeout=20) as response:
        yield Watcher(response.aiter_lines())


@asynccontextmanager
async def running_host(
    state: Path, *, embedded: bool = True, flags: Mapping[str, Any] | None = None
) -> AsyncIterator[Running]:
    """A host over a state folder; used twice, it is a host that was restarted."""
    chosen = {
        "timing.heartbeat_interval": 0.2,
        "paths.shared_dir": str(state / "shared"),
        "docker.initial_base_image": "",
    }
    settings = config.load(environ={"HAKURIVER_CONFIG": "/dev/null"}, flags={**chosen, **(flags or {})})
    layout = statedir.layout(state)
    statedir.make_private(layout.host)
    tokens = ensure_tokens(settings, layout)
    async with AsyncExitStack() as stack:
        stack.enter_context(database_lock(layout.host / "host.lock"))
        migrate(layout.database)
        host = await open_host(settings, layout, tokens, embedded=embedded)
        stack.push_async_callback(host.close)
        url = await stack.enter_async_context(serving(create_app(host)))
        stack.push_async_callback(host.stop)
        user = await stack.enter_async_context(AsyncClient(url, tokens.user))
        node = await stack.enter_async_context(AsyncClient(url, tokens.node))
        loops = [asyncio.create_task(_run(each)) for each in host.loops().values()]
        try:
            yield Running(host, url, tokens, user, node, stack, loops)
            broken = [each.exception() for each in loops if each.done() and not each.cancelled()]
            assert not broken, f"loops ended: {broken}"
        finally:
            for each in loops:
                each.cancel()
            await asyncio.wait(loops)


async def _run(loop: Callable[[], Any]) -> None:
    await loop()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Running]:
    """An embedded host with nothing in it."""
    async with running_host(tmp_path) as running:
        yield running
