"""What takes long (a pull, a pack, an import): one at a time for each environment, followed by whoever asks.

It goes on when the client that asked for it leaves; a host that stops ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

from daemons.common.engine import EngineAway
from daemons.common.log import Log
from daemons.common.threads import until
from daemons.host import clock
from hakuriver.errors import Conflict, HakuRiverError, Internal, TooMany, Unreachable
from hakuriver.views import WorkLine, WorkView

Kind = Literal["create", "pull", "pack", "import", "adopt", "load"]
INTERVAL = 0.25
"""Seconds between two lines of progress, and between two changes that are published."""
ALIVE = 3.0
AT_ONCE = 0.3
"""Seconds in which a failure is still answered with its own HTTP status."""
MOST_WAITING = 16
_WINDOW = 5.0
_DONE_TO: dict[Kind, str] = {
    "create": "created",
    "pull": "created",
    "load": "created",
    "adopt": "created",
    "pack": "packed",
    "import": "imported",
}
log = Log("environments")


class Work:
    """How far something is. ``progress`` and ``say`` may be called in any thread."""

    def __init__(self, kind: Kind, by: str, changed: Callable[[], None]) -> None:
        self.kind: Kind = kind
        self.by = by
        self.since = clock.now()
        self.text = "waiting for what is done to it already"
        self.done = 0
        self.total: int | None = None
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._marks: deque[tuple[float, int]] = deque()
        self._told = 0.0

    def say(self, text: str, *, total: int | None = None) -> None:
        """A new stage, of so many bytes where that is known."""
        self.text, self.done, self.total = text, 0, total
        self._marks = deque([(time.monotonic(), 0)])
        self._tell()

    def progress(self, done: int, total: int | None = None) -> None:
        """So many bytes of the stage are done."""
        self.done = done
        self.total = total if total is not None else self.total
        now = time.monotonic()
        if now - self._told >= INTERVAL:
            self._marks.append((now, done))
            while now - self._marks[0][0] > _WINDOW and len(self._marks) > 2:
                self._marks.popleft()
            self._tell()

    def view(self) -> WorkView:
        """As clients see it."""
        return {
            "kind": self.kind,
            "by": self.by,
            "since": self.since,
            "text": self.text,
            "done": self.done,
            "total": self.total,
            "speed": self._speed(),
        }

    def _speed(self) -> float | None:
        marks = list(self._marks)
        seconds = time.monotonic() - marks[0][0] if marks else 0.0
        return (self.done - marks[0][1]) / seconds if seconds >= INTERVAL else None

    def _tell(self) -> None:
        self._told = time.monotonic()
        self._loop.call_soon_threadsafe(self._changed)


Operation = Callable[[Work], Awaitable[WorkLine]]
"""Does it, and returns what its last line says besides ``type``; raises HakuRiverError or EngineAway."""


class _Running:
    """A work, who waits for its news, and in the end its last line."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.error: HakuRiverError | None = None
        self.last: WorkLine | None = None


class Works:
    """All that is done to environments now; ``changed`` is told whose view is another."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: dict[str, int] = {}
        self._at_work: dict[str, Work] = {}
        self._group: asyncio.TaskGroup
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Loop: what is done lives here, not in the requests that asked for it."""
        async with asyncio.TaskGroup() as self._group:
            self._ready.set()
            await asyncio.Event().wait()

    def view(self, name: str) -> WorkView | None:
        """What is done to an environment now."""
        work = self._at_work.get(name)
        return None if work is None else work.view()

    def names(self) -> list[str]:
        """Environments to which something is done."""
        return list(self._at_work)

    @contextlib.asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """What is quick, and must not meet a work of the environment; raises Conflict while one is on."""
        work = self._at_work.get(name)
        if work is not None:
            raise Conflict(
                f"environment {name} is being {_DONE_TO[work.kind]} (by {work.by})",
                hint="try again when that is done; hakuriver env list shows how far it is",
                code="at_work",
            )
        async with self._turn(name):
            yield

    async def begin(self, name: str, kind: Kind, by: str, operation: Operation) -> AsyncIterator[bytes]:
        """Start it; its lines, NDJSON. Raises what makes it fail at once, and TooMany for a long queue."""
        await self._ready.wait()
        if self._waiting.get(name, 0) >= MOST_WAITING:
            raise TooMany(f"{MOST_WAITING} other works wait for environment {name} already")
        running = _Running()

        def changed() -> None:
            running.news.set()
            self._changed(name)

        work = Work(kind, by, changed)
        task = self._group.create_task(self._do(name, work, running, operation))
        await asyncio.wait([task], timeout=AT_ONCE)
        if running.error is not None:
            raise running.error
        return self._lines(work, running)

    async def do(self, name: str, kind: Kind, by: str, operation: Operation) -> WorkLine:
        """The same without a client: waits for its end; raises what makes it fail."""
        running = _Running()
        await self._do(name, Work(kind, by, lambda: self._changed(name)), running, operation)
        if running.error is not None:
            raise running.error
        assert running.last is not None
        return running.last

    async def _do(self, name: str, work: Work, running: _Running, operation: Operation) -> None:
        try:
            async with self._turn(name):
                self._at_work[name] = work
                try:
                    running.last = {**await operation(work), "type": "done"}
                except HakuRiverError as error:
                    running.error = error
                except EngineAway as error:
                    running.error = Unreachable(str(error), hint="start the Docker engine of the host")
                except Exception as error:  # noqa: BLE001  a bug in one work must not end the host
                    log.unexpected("work_failed", error, environment=name, kind=work.kind)
                    running.error = Internal(
                        "something unexpected went wrong", hint="the host's log has the details"
                    )
                finally:
                    del self._at_work[name]
        finally:
            if running.error is not None:
                log.warning("work_ended", environment=name, kind=work.kind, error=running.error.message)
            running.news.set()
            self._changed(name)

    @contextlib.asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """An environment to oneself, in the order of asking."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._waiting[name] = self._waiting.get(name, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name], self._locks[name]

    async def _lines(self, work: Work, running: _Running) -> AsyncIterator[bytes]:
        while running.last is None and running.error is None:
            running.news.clear()
            yield _line({"type": "progress", "work": work.view()})
            await asyncio.sleep(INTERVAL)
            await until(running.news, ALIVE)
        if running.error is not None:
            yield _line({"type": "error", "error": error_fields(running.error)})
        elif running.last is not None:
            yield _line(running.last)


def error_fields(error: HakuRiverError) -> dict[str, Any]:
    """What a line says of an error: its fields, and the status that it would have been answered with."""
    return {**error.to_json()["error"], "status": error.http_status}


def _line(line: WorkLine) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
