"""What the TUI asks of a host. The HTTP library is imported in a thread, at the first request."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hakuriver import endpoint as endpoints
from hakuriver.errors import HakuRiverError
from hakuriver.paths import HEADER_ENDED, HEADER_IDEMPOTENCY, HEADER_OFFSET, HEADER_SIZE, host_path
from hakuriver.views import SubmitView, TaskView
from tui.live import decode_line

if TYPE_CHECKING:
    from hakuriver.aio import AsyncClient

UNDO_SECONDS = 5
LOG_WAIT = 20
MAX_READ = 2**20


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
            async for part in answer.aiter_bytes():
                # not aiter_lines: it also splits at U+2028 and the like, which may stand inside JSON text
                *lines, rest = part.split(b"\n")
                if lines:
                    lines[0] = b"".join(waiting) + lines[0]
                    waiting.clear()
                waiting.append(rest)
                for line in filter(None, lines):
                    yield decode_line(line)

    async def task(self, task: int) -> TaskView:
        return cast(TaskView, await self._request("GET", host_path("task", id=task)))

    async def kill(self, task: int, *, delay: float = UNDO_SECONDS) -> TaskView:
        return await self._act("POST", "kill", task, {"delay": delay})

    async def unkill(self, task: int) -> TaskView:
        return await self._act("DELETE", "unkill", task)

    async def pause(self, task: int) -> TaskView:
        return await self._act("POST", "pause", task)

    async def resume(self, task: int) -> TaskView:
        return await self._act("POST", "resume", task)

    async def submit(self, body: dict[str, Any]) -> SubmitView:
        """Submit once: the key makes a repeat after a broken connection harmless."""
        client = await self._open()
        headers = {HEADER_IDEMPOTENCY: uuid.uuid4().hex}
        return cast(
            SubmitView,
            await client.request("POST", host_path("submit"), body=body, headers=headers, timeout=30),
        )

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

    async def _act(self, method: str, route: str, task: int, body: object = None) -> TaskView:
        return cast(TaskView, await self._request(method, host_path(route, id=task), body))

    async def _request(self, method: str, path: str, body: object = None) -> Any:
        return await (await self._open()).request(method, path, body=body)

    async def _open(self) -> AsyncClient:
        async with self._opening:
            if self._client is None:
                loop = asyncio.get_running_loop()
                make = await loop.run_in_executor(self._pool, _client_type)
                self._client = make(self.endpoint.url, self.endpoint.token)
            return self._client

    async def _look_up(self) -> None:
        state = self.endpoint.state
        if state is None:
            return
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._pool, endpoints.local, state.root.parent)
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


def _client_type() -> type[AsyncClient]:
    from hakuriver.aio import AsyncClient

    return AsyncClient


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdigit() else default
