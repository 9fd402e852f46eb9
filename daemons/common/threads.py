"""Blocking work off the event loop (small pools with a purpose each), and waiting with an end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
TIMEOUT = 60.0


class Threads:
    """A bounded pool of daemon threads: one that hangs in a dead file system can't keep the runner alive.

    A call that takes longer than its timeout raises TimeoutError and is left to itself.
    """

    def __init__(self, purpose: str, count: int) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = count
        for number in range(count):
            threading.Thread(target=self._work, name=f"{purpose}-{number}", daemon=True).start()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Queue it; the future has its result."""
        future: Future[T] = Future()
        self._queue.put(partial(_run, function, future))
        return future

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it in the pool, for at most a minute."""
        return await self.call_within(TIMEOUT, partial(function, *args, **kwargs))

    async def call_within(self, timeout: float, function: Callable[[], T]) -> T:
        async with asyncio.timeout(timeout):
            return await asyncio.wrap_future(self.submit(function))

    def close(self) -> None:
        """End the threads when they are done; what hangs is not waited for."""
        for _ in range(self._count):
            self._queue.put(None)


def _run(function: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001  it is the caller's, in the other thread
        future.set_exception(error)
    else:
        future.set_result(result)


async def until(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for an event, at most so long (None: for ever).

    Not ``asyncio.wait_for``: before Python 3.12 it forgets a cancellation that comes together with the event,
    and a loop that was cancelled once would run for ever.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
