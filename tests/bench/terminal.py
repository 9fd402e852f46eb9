"""What a terminal inside the TUI costs, and what it does to the rest of it."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator

from tests.tui.shells import Shell, shell
from tui.terminal.bittty_term import make_emulator

Row = tuple[str, str]
_SIZE = (160, 49)


def terminal() -> Iterator[Row]:
    numbers = b"".join(b"%d\r\n" % number for number in range(200_000))
    colored = b"".join(b"\x1b[3%dmline %d\x1b[0m of text\r\n" % (n % 8, n) for n in range(50_000))
    for name, data in (("numbers", numbers), ("coloured lines", colored)):
        yield f"terminal emulator, {name}", f"{len(data) / drawn(data) / 1e6:.1f} MB/s of processor time"
    yield from asyncio.run(embedded())


def drawn(data: bytes) -> float:
    """Seconds of the processor to draw it in portions as they come."""
    emulator = make_emulator(_SIZE[1] - 1, _SIZE[0])
    started = time.process_time()
    for at in range(0, len(data), 4096):
        emulator.feed(data[at : at + 4096])
    return time.process_time() - started


async def embedded() -> list[Row]:
    async with shell(size=_SIZE) as used:
        await used.sees("$")
        gc.freeze()  # as the program does after its first paint
        wall, processor = time.perf_counter(), time.process_time()
        used.type("busybox seq 1 200000\n")
        await used.sees("200000\n$")
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        return [
            ("seq 1 200000 in the embedded shell", f"{wall:.2f} s, {processor:.2f} s of our processor time"),
            ("a turn of the event loop while it runs yes", await turns(used)),
        ]


async def turns(used: Shell) -> str:
    """How long turns of the event loop are over two seconds of a flood, in processor time."""
    used.type("busybox yes\n")
    await used.sees("y\ny\ny\n")
    took: list[float] = []
    end = time.monotonic() + 2
    while time.monotonic() < end:
        before = time.thread_time()
        await asyncio.sleep(0)
        took.append(time.thread_time() - before)
    used.key("ctrl+c")
    await used.sees("^C")
    took.sort()
    return f"{took[len(took) * 99 // 100] * 1e3:.1f} ms (99 %), {took[-1] * 1e3:.1f} ms (longest)"
