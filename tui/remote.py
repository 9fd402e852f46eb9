"""What the TUI asks of a host. The HTTP library is imported in a thread, at the first request."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hakuriver import endpoint as endpoints
from hakuriver.errors import HakuRiverError
from hakuriver.paths import HEADER_ENDED, HEADER_IDEMPOTENCY, HEADER_OFFSET, HEADER_SIZE, host_path
from hakuriver.views import (
    BatchView,
    EnvironmentView,
    ExplainView,
    IntentsView,
    NodeView,
    SubmitView,
    TaskView,
    VersionView,
    WorkLine,
)
from tui import watch_lines
from tui.live import Snapshot

if TYPE_CHECKING:
    from hakuriver.aio import AsyncClient
    from hakuriver.fields import Verb
    from tui.shell_channel import ShellChannel

UNDO_SECONDS = 5
_TOLD_AT_ONCE = 1000
_SMALL = 4096
_AWAKE, _REST = 0.03, 0.1
"""Seconds between two rests at least, and of a rest: a lone change is never late, of a flood some are."""
LOG_WAIT = 20
MAX_READ = 2**20
SLOW = 60.0
"""Seconds that starting or stopping a container may take, and that a long work may say nothing."""


@dataclass(frozen=True, slots=True)
class LogRead:
    """One ranged read: ``data`` begins at byte ``offset`` of a stream of ``size`` bytes."""

    offset: int
    data: bytes
    size: int
    ended: bool


class Remote:
    """One cluster. Requests may run side by side; each raises the HakuRiverError that the host answered."""

    def __init__(self, endpoint: endpoints.Endpoint) -> None:
        self.endpoint = endpoint
        self._client: AsyncClient | None = None
        self._opening = asyncio.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="remote")

    async def watch(self, cursor: str | None) -> AsyncGenerator[object, None]:
        """Watch lines. A local cluster is looked up anew each time: it may have come back on another port."""
        await self._look_up()
        client = await self._open()
        async with client.open("GET", host_path("watch"), query={"since": cursor}, timeout=60) as answer:
            waiting: list[bytes] = []
            rested = 0.0
            async for part in answer.aiter_bytes():
                # not aiter_lines: it also splits at U+2028 and the like, which may stand inside JSON text
                *lines, rest = part.split(b"\n")
                for line in lines:
                    waiting.append(line)
                    if any(waiting):
                        yield await self._decoded(waiting)
                    waiting = []
                waiting.append(rest)
                if len(part) < _SMALL and time.monotonic() - rested > _AWAKE:
                    await asyncio.sleep(_REST)  # reading ten small changes at once costs little more than one
                    rested = time.monotonic()

    async def _decoded(self, parts: list[bytes]) -> object:
        if sum(map(len, parts)) < watch_lines.LARGE:
            return watch_lines.decode(b"".join(parts))
        return await self.off_loop(_decoded_large, parts)

    async def task(self, task: int) -> TaskView:
        return cast(TaskView, await self._request("GET", host_path("task", id=task)))

    async def explain(self, task: int) -> ExplainView:
        return cast(ExplainView, await self._request("GET", host_path("explain", id=task)))

    async def batch(self, batch: int) -> BatchView:
        return cast(BatchView, await self._request("GET", host_path("batch", id=batch)))

    async def intents(self, verb: Verb, tasks: Sequence[int]) -> IntentsView:
        """Tell tasks, as many as there are; a kill is held for a while and can be taken back."""
        told: IntentsView = {"items": [], "refused": []}
        for start in range(0, len(tasks), _TOLD_AT_ONCE):
            body: dict[str, Any] = {"verb": verb, "tasks": list(tasks[start : start + _TOLD_AT_ONCE])}
            if verb == "kill":
                body["delay"] = UNDO_SECONDS
            part = cast(IntentsView, await self._request("POST", host_path("intents"), body))
            told["items"] += part["items"]
            told["refused"] += part["refused"]
        return told

    async def requeue(self, task: int, *, force: bool) -> TaskView:
        return cast(TaskView, await self._request("POST", host_path("requeue", id=task), {"force": force}))

    async def submit(self, body: dict[str, Any]) -> SubmitView:
        return await self._once(host_path("submit"), body)

    async def resubmit(self, task: int) -> SubmitView:
        return await self._once(host_path("resubmit", id=task), {})

    async def drain(self, node: str, reason: str) -> NodeView:
        return cast(NodeView, await self._request("POST", host_path("drain", name=node), {"reason": reason}))

    async def undrain(self, node: str) -> NodeView:
        return cast(NodeView, await self._request("POST", host_path("undrain", name=node), {}))

    async def remove_node(self, node: str) -> NodeView:
        return cast(NodeView, await self._request("POST", host_path("remove", name=node), {}))

    async def versions(self, environment: str) -> list[VersionView]:
        path = host_path("versions", name=environment)
        return cast("list[VersionView]", await self._request("GET", path))

    async def start_environment(self, name: str) -> EnvironmentView:
        return await self._environment("POST", "start", name)

    async def stop_environment(self, name: str) -> EnvironmentView:
        return await self._environment("POST", "stop", name)

    async def delete_environment(self, name: str) -> EnvironmentView:
        return await self._environment("DELETE", "delete", name)

    async def rollback(self, name: str, version: int | None) -> EnvironmentView:
        return await self._environment("POST", "rollback", name, {"version": version})

    async def remove_version(self, name: str, version: int) -> None:
        await self._request("DELETE", host_path("remove-version", name=name, version=version))

    async def work(self, path: str, body: dict[str, Any]) -> AsyncGenerator[WorkLine, None]:
        """Ask for something that takes long: how far it is, and at last what became of it."""
        client = await self._open()
        async with client.open("POST", path, body=body, timeout=SLOW) as answer:
            rest = b""
            async for part in answer.aiter_bytes():
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    yield cast(WorkLine, watch_lines.decode(line))

    async def shell(self, environment: str, rows: int, columns: int) -> ShellChannel:
        """A shell in an environment's container, on a terminal of that size."""
        open_shell = await self.off_loop(_shell_opener)
        where = lambda: (self.endpoint.url, self.endpoint.token)  # noqa: E731  # a restart may move the host
        return cast("ShellChannel", await open_shell(where, environment, rows, columns))

    async def _environment(self, method: str, route: str, name: str, body: object = None) -> EnvironmentView:
        client = await self._open()
        path = host_path(route, name=name)
        return cast(EnvironmentView, await client.request(method, path, body=body, timeout=SLOW))

    async def _once(self, path: str, body: dict[str, Any]) -> SubmitView:
        """Submit once: the key makes a repeat after a broken connection harmless."""
        client = await self._open()
        headers = {HEADER_IDEMPOTENCY: uuid.uuid4().hex}
        return cast(SubmitView, await client.request("POST", path, body=body, headers=headers, timeout=30))

    async def read_log(
        self,
        task: int,
        stream: str,
        *,
        offset: int | None = None,
        limit: int = MAX_READ,
        tail: int | None = None,
        wait: float = 0,
        attempt: int | None = None,
    ) -> LogRead:
        """Bytes of a log. With ``wait``, answers as soon as there are any, or the stream has ended."""
        client = await self._open()
        query = {"offset": offset, "limit": limit, "tail": tail, "wait": wait or None, "attempt": attempt}
        path = host_path("logs", id=task, stream=stream)
        async with client.open("GET", path, query=query, timeout=wait + 15) as answer:
            data = await answer.aread()
            start = _number(answer.headers.get(HEADER_OFFSET), offset or 0)
            return LogRead(
                offset=start,
                data=data,
                size=_number(answer.headers.get(HEADER_SIZE), start + len(data)),
                ended=answer.headers.get(HEADER_ENDED) == "1",
            )

    async def aclose(self) -> None:
        self._pool.shutdown(wait=False)
        if self._client is not None:
            await self._client.aclose()

    async def off_loop(self, work: Callable[..., Any], *arguments: object) -> Any:
        """Run something that blocks for a moment, in a thread of ours."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def _request(self, method: str, path: str, body: object = None) -> Any:
        return await (await self._open()).request(method, path, body=body)

    async def _open(self) -> AsyncClient:
        async with self._opening:
            if self._client is None:
                make = await self.off_loop(_client_type)
                self._client = make(self.endpoint.url, self.endpoint.token)
            return self._client

    async def _look_up(self) -> None:
        state = self.endpoint.state
        if state is None:
            return
        try:
            found = await self.off_loop(endpoints.local, state.root.parent)
        except HakuRiverError:
            return  # what we know is as good as anything; the connection says what is wrong
        if found != self.endpoint:
            async with self._opening:
                old, self._client, self.endpoint = self._client, None, found
            if old is not None:
                await old.aclose()


def caller() -> dict[str, Any]:
    """Where a submission comes from, for clusters whose tasks run like commands typed here."""
    kept = {name: os.environ[name] for name in ("PATH", "VIRTUAL_ENV", "CONDA_PREFIX") if name in os.environ}
    return {"workdir": os.getcwd(), "env": kept}  # noqa: PTH109


def _decoded_large(parts: list[bytes]) -> object:
    """For a thread of its own; what it makes is kept from the garbage collector.

    Plain JSON has no cycles, so that nothing leaks; but going through some hundred thousand objects stops the
    program for a third of a second, again and again.
    """
    gc.disable()
    try:
        found = watch_lines.decode(b"".join(parts))
        is_snapshot = isinstance(found, dict) and found.get("type") == "snapshot"
        return Snapshot.of(found) if isinstance(found, dict) and is_snapshot else found
    finally:
        gc.freeze()
        gc.enable()


def _shell_opener() -> Callable[..., Awaitable[ShellChannel]]:
    import hakuriver.terminal  # noqa: F401  # the WebSocket library takes a moment
    from tui.shell_channel import open_shell

    return open_shell


def _client_type() -> type[AsyncClient]:
    from hakuriver.aio import AsyncClient

    return AsyncClient


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdigit() else default
