"""What takes long with environments: one at a time, followed by whoever asks, ended by nobody's leaving."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemons.common.engine import EngineAway
from daemons.host.environments import work
from daemons.host.environments.work import Work, Works
from hakuriver.errors import Conflict, TooMany
from hakuriver.views import WorkLine


@asynccontextmanager
async def made(changed: list[str]) -> AsyncIterator[Works]:
    works = Works(changed.append)
    running = asyncio.create_task(works.run())
    try:
        yield works
    finally:
        running.cancel()
        await asyncio.wait([running])


async def read(lines: AsyncIterator[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in lines]


async def test_progress_is_told_until_the_end() -> None:
    changed: list[str] = []
    go_on = asyncio.Event()

    async def operation(work: Work) -> WorkLine:
        work.say("packing", total=10)
        work.progress(4)
        await go_on.wait()
        return {"type": "done", "warning": "careful"}

    async with made(changed) as works:
        lines = await works.begin("torch", "pack", "ann", operation)
        first = json.loads(await anext(lines))
        assert first["type"] == "progress"
        assert {key: first["work"][key] for key in ("kind", "by", "text", "done", "total")} == {
            "kind": "pack",
            "by": "ann",
            "text": "packing",
            "done": 4,
            "total": 10,
        }
        view = works.view("torch")
        assert view is not None
        assert view["done"] == 4
        go_on.set()
        assert (await read(lines))[-1] == {"type": "done", "warning": "careful"}
        assert works.view("torch") is None
        assert set(changed) == {"torch"}


async def test_what_fails_at_once_is_an_error_of_the_request() -> None:
    async def operation(_: Work) -> WorkLine:
        raise Conflict("it is packed already")

    async with made([]) as works:
        with pytest.raises(Conflict, match="packed already"):
            await works.begin("torch", "pack", "ann", operation)
        assert works.view("torch") is None


async def test_what_fails_later_is_the_last_line() -> None:
    async def late(_: Work) -> WorkLine:
        await asyncio.sleep(work.AT_ONCE + 0.1)
        raise EngineAway("no Docker engine runs here")

    async def bug(_: Work) -> WorkLine:
        await asyncio.sleep(work.AT_ONCE + 0.1)
        raise ZeroDivisionError

    async with made([]) as works:
        for operation, code, status in ((late, "unreachable", 503), (bug, "internal", 500)):
            last = (await read(await works.begin("torch", "pack", "ann", operation)))[-1]
            assert (last["type"], last["error"]["code"], last["error"]["status"]) == ("error", code, status)


async def test_works_on_one_environment_queue_up_and_others_do_not_wait() -> None:
    order: list[str] = []
    gate = asyncio.Event()

    def named(name: str) -> Any:
        async def operation(_: Work) -> WorkLine:
            order.append(name)
            await gate.wait()
            order.append(f"{name} done")
            return {"type": "done"}

        return operation

    async with made([]) as works:
        first = asyncio.create_task(works.do("a", "pack", "ann", named("one")))
        second = asyncio.create_task(works.do("a", "pack", "bob", named("two")))
        other = asyncio.create_task(works.do("b", "pack", "ann", named("three")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["one", "three"]
        gate.set()
        await asyncio.gather(first, second, other)
        assert order.index("one done") < order.index("two")


async def test_it_goes_on_when_the_client_leaves() -> None:
    go_on, ended = asyncio.Event(), asyncio.Event()

    async def operation(_: Work) -> WorkLine:
        await go_on.wait()
        ended.set()
        return {"type": "done"}

    async with made([]) as works:
        lines = await works.begin("torch", "pack", "ann", operation)
        await anext(lines)
        await lines.aclose()  # type: ignore[attr-defined]
        go_on.set()
        await asyncio.wait_for(ended.wait(), 10)


async def test_a_long_queue_is_refused() -> None:
    never = asyncio.Event()

    async def operation(_: Work) -> WorkLine:
        await never.wait()
        return {"type": "done"}

    async with made([]) as works:
        waiting = [
            asyncio.create_task(works.do("a", "pack", "ann", operation)) for _ in range(work.MOST_WAITING)
        ]
        await asyncio.sleep(0)
        with pytest.raises(TooMany):
            await works.begin("a", "pack", "ann", operation)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
