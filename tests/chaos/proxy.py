"""An HTTP proxy that loses, delays and repeats requests on purpose, decided by a seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass
class Mood:
    """Probabilities per request; all zero is a good network, ``cut`` none at all.

    Lost requests with all answers well, or the other way round, cut one way only. What is lost is answered
    by a reset, or, with ``silent``, by nothing until the caller gives up or it is over. ``late`` is a request
    that comes once more, seconds after it was answered, when much has changed.
    """

    lose_request: float = 0.0
    lose_answer: float = 0.0
    repeat: float = 0.0
    delay: float = 0.0
    late: float = 0.0
    cut: bool = False
    silent: bool = False


class Proxy:
    """Listens on a free loopback port in a thread of its own; one request a connection."""

    def __init__(self, seed: int) -> None:
        self.mood = Mood()
        self.port = 0
        self.upstream = 0
        self.faults: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._held: set[asyncio.Task[Any]] = set()  # asyncio itself holds none
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _chance(self, name: str, probability: float) -> bool:
        hit = self._random.random() < probability
        if hit:
            self.faults[f"request {name}"] += 1
        return hit

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._held = {each for each in self._held if not each.done()} | {task}
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            mood = self.mood
            request = await self._read(reader)
            if mood.cut or self._chance("lost", mood.lose_request):
                await self._lose(reader, writer)
                return
            if self._chance("delayed", mood.delay):
                await asyncio.sleep(self._random.uniform(0, 1.5))
            answer = await self._forward(request)
            if self._chance("doubled", mood.repeat):
                answer = await self._forward(request)
            if self._chance("repeated late", mood.late):
                self._loop.call_later(self._random.uniform(0.5, 6), self._again, request)
            if mood.cut or self._chance("without its answer", mood.lose_answer):
                await self._lose(reader, writer)
                return
            writer.write(answer)
            await writer.drain()
        writer.close()

    def _again(self, request: bytes) -> None:
        self._held.add(self._loop.create_task(self._in_vain(request)))

    async def _in_vain(self, request: bytes) -> None:
        with contextlib.suppress(OSError):
            await self._forward(request)

    async def _lose(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.mood.silent and not reader.at_eof():
            await asyncio.sleep(0.05)
        writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0
        )
        kept = [line for line in lines[:-2] if not line.lower().startswith(b"connection:")]
        return b"\r\n".join([*kept, b"Connection: close", b"", b""]) + await reader.readexactly(length)

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        writer.write(request)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer
