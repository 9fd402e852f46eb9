"""The log buffer equals the stream wherever it stands; the reader fills it from a real HTTP peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style

from hakuriver.errors import UsageError
from tests.tui.peer import Peer, peer
from tests.tui.use import until
from tui import log_buffer
from tui.ansi import plain, spans, visible
from tui.log_buffer import LogBuffer, split
from tui.log_reader import LogReader, pattern
from tui.remote import Remote


def shown(buffer: LogBuffer) -> list[str]:
    return [plain(visible(line.data)) for line in buffer.lines]


STREAM = st.lists(
    st.sampled_from([b"a", b"bc", b"\n", b"\r", b"1%\r", "ä".encode(), b"\x1b[1m"]), max_size=40
)


@given(STREAM, st.data())
def test_pieces_give_the_same_lines_as_the_whole(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    whole, pieces = LogBuffer(), LogBuffer()
    whole.append(0, stream, len(stream), ended=True)
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, 5))
        pieces.append(at, stream[at : at + size], len(stream), ended=True)
        at += size
    assert shown(pieces) == shown(whole)
    assert [(line.offset, line.end) for line in pieces.lines] == [(x.offset, x.end) for x in whole.lines]
    assert pieces.end == len(stream)


@given(STREAM, st.integers(0, 60))
def test_lines_before_the_window_complete_it(parts: list[bytes], cut: int) -> None:
    stream = b"".join(parts)
    start = stream.find(b"\n", cut) + 1
    buffer, whole = LogBuffer(), LogBuffer()
    whole.append(0, stream, len(stream), ended=True)
    buffer.append(start, stream[start:], len(stream), ended=True)
    if buffer.lines:
        buffer.prepend(0, stream[:start])
        assert shown(buffer) == shown(whole)
        assert buffer.at_start


def test_colours_last_over_line_breaks() -> None:
    buffer = LogBuffer()
    stream = b"plain\n\x1b[31mred\nstill red\n\x1b[1mand bold\nboth\n\x1b[0mnone\nnone\n"
    buffer.append(0, stream, len(stream), ended=True)
    red, bold = Style(color="color(1)"), Style(color="color(1)", bold=True)
    styles = [buffer.style_at(index) for index in range(len(buffer.lines))]
    assert styles == [Style.null(), Style.null(), red, red, bold, bold, Style.null()]
    assert spans("still red", styles[2]) == [("still red", red)]


def test_lines_without_an_end_are_broken() -> None:
    lines = split(0, b"x" * 40_000)
    assert [len(line.data) for line in lines] == [16384, 16384, 40_000 - 2 * 16384]


def test_the_window_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_buffer, "MAX_BYTES", 1000)
    buffer = LogBuffer()
    for at in range(0, 5000, 10):
        buffer.append(at, b"123456789\n", at + 10, ended=False)
    assert buffer.end == 5000 and buffer.end - buffer.start <= 1000
    assert buffer.lines[0].offset == buffer.start


def test_a_hole_in_a_capped_log_begins_the_window_anew() -> None:
    buffer = LogBuffer()
    buffer.append(0, b"old\n", 4, ended=False)
    buffer.append(100, b"new\n", 104, ended=False)
    assert shown(buffer) == ["new"] and buffer.start == 100


@asynccontextmanager
async def reading(host: Peer) -> AsyncIterator[LogReader]:
    remote = Remote(host.endpoint)
    reader = LogReader(partial(remote.read_log, 1, "stdout"), lambda: None)
    running = asyncio.create_task(reader.run())
    await until(lambda: reader.buffer.loaded)
    yield reader
    running.cancel()
    await asyncio.wait([running])
    await remote.aclose()


async def test_tail_first_then_what_grows() -> None:
    async with peer() as host:
        host.write(1, b"".join(b"line %d\n" % i for i in range(5000)))
        async with reading(host) as reader:
            assert shown(reader.buffer)[0] == "line 4000"
            host.write(1, b"more\n")
            await until(lambda: shown(reader.buffer)[-1] == "more")
            host.write(1, b" 10%\r 50%\r")
            await until(lambda: shown(reader.buffer)[-1] == " 50%")


async def test_earlier_and_later_and_search_in_a_large_log() -> None:
    async with peer() as host:
        stream = b"".join(
            b"%07d %s\n" % (i, b"needle" if i in (10, 300_000) else b"hay" * 3) for i in range(400_000)
        )
        host.write(1, stream)
        async with reading(host) as reader:
            buffer = reader.buffer
            await reader.earlier()
            assert buffer.start > 0 and stream[buffer.start - 1 : buffer.start] == b"\n"
            found = await reader.find(pattern("NEEDLE"), len(buffer.lines), back=True)
            assert found is not None and stream[found:].startswith(b"0300000 needle")
            await reader.to_offset(found)
            line = buffer.lines[buffer.index(found)]
            assert line.data == b"0300000 needle\n"
            await reader.later()
            assert not buffer.at_end
            first = await reader.find(pattern("/need[lx]e/"), buffer.index(found), back=True)
            assert first == stream.index(b"0000010")
            assert await reader.find(pattern("needle"), buffer.index(found), back=False) is None
            await reader.to_end()
            assert buffer.at_end and shown(buffer)[-1].startswith("0399999")


async def test_the_reader_says_what_is_wrong_and_goes_on() -> None:
    async with peer() as host:
        endpoint = host.endpoint
    remote = Remote(endpoint)
    reader = LogReader(partial(remote.read_log, 1, "stdout"), lambda: None)
    running = asyncio.create_task(reader.run())
    await until(lambda: reader.trouble)
    again = Peer()
    again.log_ended = True
    again.write(1, b"here\n")
    await again.start(int(endpoint.url.rpartition(":")[2]))
    await until(lambda: shown(reader.buffer) == ["here"])
    assert reader.trouble == ""
    await asyncio.wait([running], timeout=5)
    assert running.done(), "an ended stream is not read for ever"
    await remote.aclose()
    await again.stop()


def test_bad_search() -> None:
    with pytest.raises(UsageError):
        pattern("/(/")
