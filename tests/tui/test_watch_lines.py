"""A line taken apart in slices is the same line; a large one stops nothing while it is decoded."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tui.peer import peer, running, task
from tui import watch_lines
from tui.live import Mirror, Snapshot
from tui.remote import Remote
from tui.watch_lines import BadLine, decode

TEXT = st.text(st.sampled_from('a"\\{}[],: \n世\u2028'), max_size=8)
LEAF = st.none() | st.booleans() | st.integers() | TEXT
VALUE = st.recursive(
    LEAF, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3), max_leaves=12
)
LINE = st.dictionaries(st.sampled_from(["type", "tasks", "nodes", "cluster", "x"]), VALUE)
ELEMENTS = st.lists(st.dictionaries(TEXT, VALUE, max_size=3), max_size=8)


@given(LINE, ELEMENTS, st.integers(1, 40), st.booleans(), st.sampled_from([None, (",", ":")]))
@example({}, [{"a": "},{"}, {"b": [{}, {}]}], 1, True, (",", ":"))
def test_slices_are_the_whole(
    line: dict[str, Any], elements: list[Any], size: int, ascii_only: bool, separators: tuple[str, str] | None
) -> None:
    whole = {**line, "tasks": elements}
    written = json.dumps(whole, ensure_ascii=ascii_only, separators=separators).encode()
    assert decode(written, size) == whole
    assert list(decode(written, size)) == list(whole)  # type: ignore[call-overload]


@given(LINE, ELEMENTS, st.data())
def test_what_is_no_json_is_refused_in_slices_too(
    line: dict[str, Any], elements: list[Any], data: st.DataObject
) -> None:
    written = json.dumps({**line, "tasks": elements}).encode()
    broken = written[: data.draw(st.integers(1, len(written) - 1))]
    with pytest.raises(BadLine):
        decode(broken, 4)
    with pytest.raises(BadLine):
        decode(written + b" x", 4)


def test_objects_inside_tasks_make_no_slice_longer() -> None:
    """A slice that ends inside one is tried again, twice as long: too often, and the loop stands still."""
    tasks = [task(i, wants={"labels": {"room": "b12"}, "pin": True} if i % 2 else {}) for i in range(2000)]
    written = json.dumps({"tasks": tasks}).encode()
    longest = 0

    class Decoder(json.JSONDecoder):
        def raw_decode(self, text: str, idx: int = 0) -> tuple[Any, int]:
            nonlocal longest
            longest = max(longest, len(text))
            return super().raw_decode(text, idx)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watch_lines, "_DECODER", Decoder())
        assert decode(written, 4096) == {"tasks": tasks}
    assert longest < 3 * 4096


async def test_a_large_snapshot_is_decoded_beside_the_event_loop() -> None:
    tasks = [running(i, name=f"n-{i}") if i % 2 else task(i) for i in range(3000)]
    async with peer() as host:
        host.put(*tasks)
        remote, mirror = Remote(host.endpoint), Mirror()
        line = await anext(remote.watch(None))
        assert isinstance(line, Snapshot), "made in a thread"
        assert mirror.apply(line).reset
        assert mirror.tasks == {each["id"]: each for each in tasks}
        assert mirror.task_states == {"running": 1500, "completed": 1500}
        await remote.aclose()


async def test_the_loop_goes_on_while_a_large_line_is_decoded() -> None:
    line = json.dumps({"type": "snapshot", "tasks": [task(i) for i in range(20_000)]}).encode()
    started, longest = time.perf_counter(), 0.0
    decoding = asyncio.create_task(asyncio.to_thread(decode, line))
    while not decoding.done():
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - before)
    found = decoding.result()
    assert isinstance(found, dict) and len(found["tasks"]) == 20_000
    assert longest < (time.perf_counter() - started) / 2, "the loop had its turns in between"
