"""Waiting ends when it was cancelled, also when what it waits for comes in the same moment."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest

import daemons
import hakuriver
import tui
from daemons.common.threads import Threads, until


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_together_with_the_event_is_not_forgotten(turns: int) -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(until(event, 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    if waiting.done():
        return
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_together_with_a_result_of_a_thread_is_not_forgotten(turns: int) -> None:
    threads = Threads("test", 1)
    try:
        calling = asyncio.create_task(threads.call(int))
        await asyncio.sleep(0)
        threads.submit(int).result(10)  # the one before it is done, and its result is on its way
        for _ in range(turns):
            await asyncio.sleep(0)
        if calling.done():
            return
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    finally:
        threads.close()


def test_nobody_uses_the_wait_that_forgets() -> None:
    """``asyncio.wait_for`` of Python 3.11 does (fixed in 3.12, python/cpython#96764)."""
    found = []
    for package in (daemons, hakuriver, tui):
        for path in Path(package.__path__[0]).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr == "wait_for":
                    found.append(f"{path.name}:{node.lineno}")
    assert found == []
