"""Between a channel and an emulator: bytes both ways, in portions that leave the event loop to others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from hakuriver.errors import HakuRiverError
from tui.terminal.channel import Back, Channel, Connect, Ended, Event, Lost, Output
from tui.terminal.emulator import Emulator

_SLICE = 2048
"""Bytes between two looks at the clock; pure Python draws them in a millisecond or two."""
_TURN_SECONDS = 0.008
"""How long the event loop may be kept at a time."""
_PORTION = 16384
_MOST_WAITING = 4 * 2**20
"""Bytes typed, pasted or answered that the program hasn't taken yet; what comes on top of them is dropped."""
_CLOSE_SECONDS = 3.0


class State(StrEnum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    ENDED = "ended"


class Pump:
    """One program behind one terminal, from the connection to its end."""

    def __init__(self, emulator: Emulator, connect: Connect, changed: Callable[[], None]) -> None:
        """``changed`` is called, often, when the screen or the state may look different."""
        self.emulator = emulator
        self.state = State.CONNECTING
        self.why = ""
        self.code: int | None = None
        self._connect = connect
        self._changed = changed
        self._waiting = bytearray()
        self._size: tuple[int, int] | None = None
        self._something = asyncio.Event()

    def write(self, data: bytes) -> None:
        """Give the program input; while it is out of reach, or doesn't read, nobody gets it."""
        if self.state is State.CONNECTED and data and len(self._waiting) + len(data) <= _MOST_WAITING:
            self._waiting += data
            self._something.set()

    def resize(self, rows: int, columns: int) -> None:
        self.emulator.resize(rows, columns)
        self._size = (rows, columns)
        self._something.set()

    async def run(self) -> None:
        """Until the program ends or we are cancelled."""
        size = (self.emulator.rows, self.emulator.columns)
        try:
            channel = await self._connect(*size)
        except HakuRiverError as error:
            self._end(Ended(None, error.message))
            return
        if size == (self.emulator.rows, self.emulator.columns):
            self._size = None
        self._set(State.CONNECTED)
        sending = asyncio.create_task(self._send(channel))
        try:
            await self._receive(channel)
        except HakuRiverError as error:
            self._end(Ended(None, error.message))
        finally:
            sending.cancel()
            with suppress(TimeoutError):  # then it is left to itself
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await channel.close()

    async def _receive(self, channel: Channel) -> None:
        while self.state is not State.ENDED:
            await self._take(await channel.receive())

    async def _take(self, event: Event) -> None:
        match event:
            case Output(data):
                await self._draw(data)
            case Lost(why):
                self._waiting.clear()
                self._set(State.RECONNECTING, why)
            case Back(redraw):
                if redraw:
                    await self._draw(b"\x1bc")
                self._set(State.CONNECTED)
                self.resize(self.emulator.rows, self.emulator.columns)
            case Ended():
                self._end(event)

    async def _draw(self, data: bytes) -> None:
        started = time.monotonic()
        for at in range(0, len(data), _SLICE):
            self.write(self.emulator.feed(data[at : at + _SLICE]))
            if time.monotonic() - started > _TURN_SECONDS:
                self._changed()
                await asyncio.sleep(0)
                started = time.monotonic()
        self._changed()
        await asyncio.sleep(0)

    async def _send(self, channel: Channel) -> None:
        """What waits goes out in its order, the size first. A channel that breaks says so when it is read."""
        while True:
            await self._something.wait()
            self._something.clear()
            try:
                while self._size is not None or self._waiting:
                    if self._size is not None:
                        size, self._size = self._size, None
                        await channel.resize(*size)
                    portion = bytes(self._waiting[:_PORTION])
                    del self._waiting[:_PORTION]
                    if portion:
                        await channel.send(portion)
            except HakuRiverError:
                self._waiting.clear()

    def _end(self, ended: Ended) -> None:
        self.code = ended.code
        if not self.emulator.modes.alternate_screen:
            self.emulator.feed(b"\r\n")  # room for the line that says so
        self._set(State.ENDED, ended.why)

    def _set(self, state: State, why: str = "") -> None:
        self.state, self.why = state, why
        self._changed()
