"""The program on a real terminal (a pty): what the differ sends there makes the right screen."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.tui.peer import TOKEN, Peer, node, peer, running
from tests.tui.terminal import Terminal
from tests.tui.use import until

_OTHER = re.compile(
    r"\x1b\[[?>=<][0-9;]*\$?[a-zA-Z]|\x1b\][0-79][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[6n|\x1b[=>()][0B]?"
)


class Program:
    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self.written = b""
        self._main, self._other = pty.openpty()
        fcntl.ioctl(self._other, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    async def start(self, host: Peer, *, argv: Sequence[str] = (), **environ: str) -> None:
        env = {
            # a test runner may export the size of another terminal
            **{name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "HAKURIVER_TOKEN": TOKEN,
            **environ,
        }
        env |= {"HAKURIVER_HOST": host.endpoint.url}
        self.process = await asyncio.create_subprocess_exec(
            *(argv or (sys.executable, "-m", "tui")),
            stdin=self._other,
            stdout=self._other,
            stderr=self._other,
            env=env,
        )
        os.close(self._other)
        asyncio.get_running_loop().add_reader(self._main, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._main, 2**20)
        except OSError:
            asyncio.get_running_loop().remove_reader(self._main)
            return
        self.written += data

    @property
    def sent(self) -> int:
        return len(self.written)

    @property
    def lines(self) -> list[str]:
        """What stands on the terminal, replayed from its first byte."""
        screen = Terminal(*self._size)
        screen.feed(_OTHER.sub("", self.written.decode("utf-8", "ignore")))
        return screen.lines

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        asyncio.get_running_loop().remove_reader(self._main)
        os.close(self._main)

    async def left(self) -> int:
        """Its exit status, once it has ended."""
        try:
            async with asyncio.timeout(15):
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError("it goes on:\n" + "\n".join(self.lines)) from None

    def type(self, keys: bytes) -> None:
        os.write(self._main, keys)

    async def sees(self, text: str) -> None:
        try:
            await until(lambda: any(text in line for line in self.lines), 15)
        except TimeoutError:
            raise AssertionError(f"{text!r} is not in:\n" + "\n".join(self.lines)) from None


@asynccontextmanager
async def program(host: Peer, *, argv: Sequence[str] = (), **environ: str) -> AsyncIterator[Program]:
    made = Program(100, 30)
    await made.start(host, argv=argv, **environ)
    try:
        yield made
    finally:
        await made.close()


async def test_a_session_on_a_terminal() -> None:
    async with peer() as host:
        host.put(node("n1"), *(running(i, command=["echo", "世界", str(i)]) for i in range(1, 6)))
        async with program(host) as used:
            await used.sees("echo '世界' 5")
            await used.sees("nothing on stdout yet")
            quiet = used.sent
            host.put(running(6, command=["one", "more"]))
            await used.sees("one more")
            assert used.sent - quiet < 4000, "a new row doesn't repaint the screen"
            used.type(b"3")
            await used.sees("── Tasks 6")
            used.type(b"q")
            assert await used.left() == 0


async def test_without_colours() -> None:
    async with peer() as host:
        host.put(node("n1"), running(1))
        async with program(host, NO_COLOR="1") as used:
            await used.sees("● running")
            used.type(b"\x11")
            assert await used.left() == 0


_FAILING = """
from tui.display import frame_diff
calls, write = 0, frame_diff.Grid.write
def failing(*arguments):
    global calls
    calls += 1
    if calls > 150:
        raise TypeError("strips of another shape")
    return write(*arguments)
frame_diff.Grid.write = failing
from tui.__main__ import main
raise SystemExit(main())
"""


async def test_a_differ_that_fails_leaves_a_right_screen() -> None:
    async with peer() as host:
        host.put(node("n1"), *(running(i) for i in range(1, 6)))
        async with program(host, argv=(sys.executable, "-c", _FAILING)) as used:
            await used.sees("sleep 5")
            for keys, shown in ((b"3", "── Tasks 5"), (b"2", "MEM HELD"), (b"1", "nothing on stdout yet")):
                used.type(keys)
                await used.sees(shown)
            assert "HakuRiver" in used.lines[0] and "q quit" in used.lines[-1]
            assert sum("● running" in line for line in used.lines) == 5
            used.type(b"q")
            assert await used.left() == 0
