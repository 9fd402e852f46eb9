"""``python -m tests.tui.meter``: what the TUI costs, on a real terminal and a real HTTP peer.

Prints one line a measurement: first paint, bytes and CPU at rest and at 100 events/s, and what a snapshot of
100 000 tasks and a filter over it take, with the longest pause of the event loop.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median

from hakuriver.endpoint import Endpoint
from tests.tui.peer import TOKEN, Peer, gpu_node, node, running, task
from tests.tui.test_terminal import Program
from tests.tui.use import until
from tui.app import HakuRiverApp
from tui.live import Link
from tui.screens.tables import Tasks

MANY = 100_000
_CODES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")
_MINIMAL = """
from textual.app import App
from textual.widgets import Static
class Minimal(App):
    def compose(self):
        yield Static("HakuRiver")
Minimal().run()
"""


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def first_paint(host: Peer, argv: list[str]) -> float:
    """Seconds from the start of a program to its first words on the terminal."""
    program = Program(160, 48)
    started = time.perf_counter()
    await program.start(host, argv=argv)
    try:
        await until(lambda: b"HakuRiver" in _CODES.sub(b"", program.written), 20)
        return time.perf_counter() - started
    finally:
        await program.close()


async def starts() -> None:
    host = Peer()
    await host.start()
    host.put(node("n1"), *(running(i) for i in range(50)))
    times: dict[str, list[float]] = {"minimal Textual app": [], "hakuriver": []}
    for _ in range(5):
        times["minimal Textual app"].append(await first_paint(host, [sys.executable, "-c", _MINIMAL]))
        times["hakuriver"].append(await first_paint(host, [sys.executable, "-m", "tui"]))
    for name, each in times.items():
        print(f"first paint of {name}: {median(each):.3f} s (best {min(each):.3f})")
    await host.stop()


async def rates() -> None:
    host = Peer()
    await host.start()
    host.put(*(node(f"n{i}") for i in range(8)), *(running(i) for i in range(500)))
    program = Program(160, 48)
    await program.start(host)
    await program.sees("sleep 499")
    await asyncio.sleep(2)
    pid = program.process.pid

    async def measured(name: str, work: Callable[[int], None], *, seconds: float = 10) -> None:
        cpu, sent, started, count = cpu_seconds(pid), program.sent, time.perf_counter(), 0
        while (passed := time.perf_counter() - started) < seconds:
            while count < passed * 100:
                work(count)
                count += 1
            await asyncio.sleep(0.01)
        sent, cpu = program.sent - sent, cpu_seconds(pid) - cpu
        print(f"{name}: {cpu / passed:.1%} CPU, {sent / passed / 1000:.1f} kB/s")

    def event(count: int) -> None:
        host.put(running(count * 7 % 500, reason=f"step {count}"))

    def visible_event(count: int) -> None:
        host.put(running(480 + count % 20, reason=f"step {count}"))

    def life(count: int) -> None:
        host.put(running(500 + count) if count % 2 == 0 else task(500 + count - 1))

    await measured("at rest", lambda _: None)
    await measured("100 events/s, most out of sight", event)
    await measured("100 events/s, all in sight", visible_event)

    def heartbeat(count: int) -> None:
        """Twenty nodes with eight GPUs each, a heartbeat every five seconds."""
        if count % 25 == 0:
            made = gpu_node(f"gpu-{count // 25 % 20:02}", held={0: 480, 1: 481})
            for gpu in made["gpus"]:
                gpu["utilization"] = float(count * 7 % 100)
            host.put(made)

    await measured("100 events/s, new tasks and ends", life)
    host.put(*(gpu_node(f"gpu-{i:02}", held={0: 480, 1: 481}) for i in range(20)))
    await program.sees("gpu-00")
    await measured("heartbeats of 20 nodes with 8 GPUs", heartbeat)
    await program.close()
    await host.stop()


def serve(count: int) -> None:
    """A host in a process of its own, so that it doesn't share our interpreter's lock."""

    async def run() -> None:
        host = Peer()
        host.put(node("n1"))
        words = ["train", "evaluate", "tokenize", "sweep"]
        for i in range(count):
            make = running if i % 10 == 0 else task
            host.tasks[i] = make(
                i,
                name=f"{words[i % 4]}-{i}" if i % 3 else None,
                owner=("ann", "bob", "carol")[i % 3],
                command=["python", "train.py", f"--seed={i}", "--lr", "0.001"],
                state=("running", "failed", "completed")[i % 3] if i % 10 else "running",
            )
        await host.start()
        print(host.port, flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


@asynccontextmanager
async def served(count: int) -> AsyncIterator[Endpoint]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.tui.meter", "serve", str(count), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    try:
        yield Endpoint(f"http://127.0.0.1:{port}", TOKEN)
    finally:
        process.kill()
        await process.wait()


class Lag:
    """The longest time that the event loop did nothing else."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.perf_counter() - before - 0.001)

    def take(self) -> float:
        longest, self.longest = self.longest, 0.0
        return longest

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def hundred_thousand() -> None:
    async with served(MANY) as endpoint:
        app = HakuRiverApp(endpoint)
        async with app.run_test(size=(160, 48)) as pilot:
            await pilot.press("3")
            lag = Lag()
            await until(lambda: app.session.mirror.status.link is Link.LIVE, 60)
            arrived = time.perf_counter()
            screen = app.screen
            assert isinstance(screen, Tasks)
            rows = screen.rows
            await until(lambda: len(rows) == MANY, 60)
            took = time.perf_counter() - arrived
            await asyncio.sleep(0.5)
            print(
                f"{MANY} tasks: shown in {took:.3f} s after they were there, pause {lag.take() * 1000:.0f} ms"
            )
            for written in ("state:failed", "tokenize", "/seed=9999$/"):
                await pilot.press("slash")
                await asyncio.sleep(0.5)
                await pilot.press("escape")
                await asyncio.sleep(0.3)
                print(f"about to filter: pause {lag.take() * 1000:.0f} ms")
                started = time.perf_counter()
                screen.set_filter(written)
                await until(lambda: len(rows) < MANY, 10)
                took = time.perf_counter() - started
                await asyncio.sleep(0.2)
                pause = lag.take()
                print(f"filter {written}: {len(rows)} in {took * 1000:.0f} ms, pause {pause * 1000:.0f} ms")
                screen.set_filter("")
                await until(lambda: len(rows) == MANY, 10)
                await asyncio.sleep(0.2)
                print(f"and away again: pause {lag.take() * 1000:.0f} ms")
            for key in ("greater_than_sign", "greater_than_sign", "R", "G", "g", "1", "3"):
                await pilot.press(key)
                await asyncio.sleep(0.2)
                print(f"key {key}: pause {lag.take() * 1000:.0f} ms")
            await lag.stop()


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]))
        return
    wanted = sys.argv[1:] or ["starts", "rates", "many"]
    for name, measure in (("starts", starts), ("rates", rates), ("many", hundred_thousand)):
        if name in wanted:
            asyncio.run(measure())


if __name__ == "__main__":
    main()
