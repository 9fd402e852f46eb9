"""A command or shell in an environment's container, live: the client, and what both ends agree on.

A WebSocket carries bytes in binary frames and everything else as JSON. The client's first word is ``open``
or ``attach``, the host's ``session`` with its id and how much input it has. Without a terminal the first
byte of a binary frame names the stream. Either side holds what the other hasn't acknowledged, so a connection
that breaks loses and doubles nothing. Import it late: websockets costs 60 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from hakuriver.api import address, common_headers
from hakuriver.errors import Conflict, HakuRiverError, Unreachable, from_json
from hakuriver.paths import host_path

STDIN, STDOUT, STDERR = 0, 1, 2
WINDOW = 2**20
"""Bytes that either side sends before they are acknowledged."""
ACK_BYTES = 2**16
KEPT = 60.0
"""Seconds for which the host keeps a session whose client is away."""
TAKEN_OVER = 4001
"""Close code of a connection whose session another one has taken."""
LONGEST_SIDE = 4096
"""Rows or columns of a terminal at most."""
_ACK_FRAMES = 256
_PIECE = 2**15
_PATIENCE = KEPT + 15
_CONNECT_TIMEOUT = 10.0
_OPEN_TIMEOUT = 60.0
_PING = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0

_CLOSE = json.dumps({"type": "close"})

Where = Callable[[], tuple[str, str]]
"""The host's address and the credential: asked for each connection, as a restart may have moved it."""


@dataclass(frozen=True, slots=True)
class Output:
    """What was said, cut anywhere; of a terminal always on STDOUT."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone, and another one is tried."""

    why: str


@dataclass(frozen=True, slots=True)
class Back:
    """It is there again, and goes on where it was."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing follows. ``code`` is its exit code."""

    code: int


Event = Output | Lost | Back | Ended


@dataclass(frozen=True, slots=True)
class Opening:
    """What to run; no ``command`` means the best shell that there is."""

    command: Sequence[str] | None = None
    tty: bool = True
    rows: int = 24
    cols: int = 80
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    workdir: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The first message."""
        command = None if self.command is None else list(self.command)
        return {
            "type": "open",
            "command": command,
            "tty": self.tty,
            "env": dict(self.env),
            "rows": self.rows,
            "cols": self.cols,
            "user": self.user,
            "workdir": self.workdir,
        }


class SessionLost(Unreachable):
    """The host didn't come back in time, or came back without the session."""

    code = "session_lost"


class Session:
    """One command in the container of ``environment``; made by ``start``, which raises what the host refuses.

    ``close`` must be called in the end; it ends what still runs.
    """

    def __init__(self, where: Where, environment: str, opening: Opening) -> None:
        self._where = where
        self._path = address(host_path("exec", name=environment))
        self._opening = opening
        self._size = (opening.rows, opening.cols)
        self._id: str | None = None
        self._events: deque[Event] = deque()
        self._received = 0  # bytes of output that came
        self._used = 0  # of those: that the owner has taken
        self._frames = 0  # in so many pieces
        self._input = bytearray()  # what the host hasn't acknowledged
        self._before = 0  # bytes of input before those
        self._sent = 0  # bytes of input that the host was given
        self._ended_at: int | None = None
        self._closing = False
        self._orders: deque[dict[str, Any]] = deque()
        self._failure: HakuRiverError | None = None
        self._over = False
        self._news = asyncio.Event()  # for receive
        self._room = asyncio.Event()  # for send
        self._due = asyncio.Event()  # for whoever writes
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open it; raises HakuRiverError. Fails at once where the host isn't there."""
        self._task = asyncio.create_task(self._run())
        while self._id is None and not self._over:
            self._news.clear()
            await self._news.wait()
        if self._id is None and self._failure is not None:
            raise self._failure

    async def receive(self) -> Event:
        """What happens next; raises HakuRiverError when the session is lost. Output is not read far ahead."""
        while not self._events:
            if self._over:
                raise self._failure or SessionLost("the session was left")
            self._news.clear()
            await self._news.wait()
        event = self._events.popleft()
        if isinstance(event, Output):
            self._used += len(event.data)
            self._frames += 1
            self._due.set()
        return event

    async def send(self, data: bytes) -> None:
        """Standard input, or keys; waits while too much is on its way. After the end it goes nowhere."""
        while len(self._input) >= WINDOW and not self._over:
            self._room.clear()
            await self._room.wait()
        if not self._over:
            self._input += data
            self._due.set()

    def send_eof(self) -> None:
        """The end of standard input."""
        self._ended_at = self._before + len(self._input)
        self._order({"type": "eof", "sent": self._ended_at})

    def resize(self, rows: int, cols: int) -> None:
        """The terminal has another size."""
        self._size = (max(1, min(rows, LONGEST_SIDE)), max(1, min(cols, LONGEST_SIDE)))
        self._order(self._resized())

    def interrupt(self) -> None:
        """What Ctrl-C means to whatever runs in the foreground."""
        if self._opening.tty:
            self._input += b"\x03"
            self._due.set()
        else:
            self._order({"type": "signal", "signal": signal.SIGINT})

    async def close(self) -> None:
        """End what runs, unless it has ended, and the connection. Takes 2 s at most."""
        if self._task is not None:
            self._closing = True
            self._order({"type": "close"})
            await asyncio.wait([self._task], timeout=2)
            self._task.cancel()
            await asyncio.wait([self._task])

    def _order(self, message: dict[str, Any]) -> None:
        self._orders.append(message)
        self._due.set()

    def _resized(self) -> dict[str, Any]:
        return {"type": "resize", "rows": self._size[0], "cols": self._size[1]}

    # ---- connections

    async def _run(self) -> None:
        try:
            await self._keep_connected()
        except HakuRiverError as error:
            self._failure = error
        finally:
            self._over = True
            self._news.set()
            self._room.set()

    async def _keep_connected(self) -> None:
        """One connection after the other, until it has ended; raises why it is lost."""
        lost_at, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                if await self._connection():
                    return
                self._tell(Lost("the connection broke"))
                lost_at, pause = time.monotonic(), _FIRST_PAUSE
            except _Away as away:
                if self._id is None:
                    raise Unreachable(str(away), hint="hakuriver status shows more") from away
                if time.monotonic() - lost_at > _PATIENCE:
                    raise SessionLost(f"{away}; the host has ended the session by now") from away
            if self._closing:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _connection(self) -> bool:
        """One connection; whether the session is over. Raises _Away where none can be made."""
        async with self._connected() as socket:
            known = {"type": "attach", "session": self._id, "received": self._received}
            first = self._opening.to_json() if self._id is None else known
            try:
                await socket.send(json.dumps(first))
                async with asyncio.timeout(_OPEN_TIMEOUT):
                    answer = json.loads(await socket.recv())
            except (ConnectionClosed, TimeoutError) as error:
                raise _Away(f"the host doesn't answer: {error or 'timed out'}") from error
            if answer["type"] == "error":
                raise _refused(answer)
            if self._id is not None:
                self._back()
            self._id = str(answer["id"])
            self._sent = int(answer["received"])
            self._news.set()
            writing = asyncio.create_task(self._write(socket))
            try:
                return await self._read(socket)
            finally:
                writing.cancel()
                await asyncio.wait([writing])

    def _back(self) -> None:
        """The host may not have heard the last orders."""
        self._orders.append(self._resized())
        if self._ended_at is not None:
            self._orders.append({"type": "eof", "sent": self._ended_at})
        self._tell(Back())

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[ClientConnection]:
        try:
            url, token = self._where()
        except Unreachable as error:  # a cluster that is being started again may not be found
            raise _Away(error.message) from error
        try:
            async with connect(
                f"ws{url.removeprefix('http')}{self._path}",
                additional_headers=common_headers(token),
                compression=None,
                proxy=None,
                open_timeout=_CONNECT_TIMEOUT,
                close_timeout=1,
                ping_interval=_PING,
                ping_timeout=_PING,
            ) as socket:
                yield socket
        except InvalidStatus as error:
            raise from_json(error.response.status_code, _decoded(error.response.body)) from error
        except (OSError, InvalidHandshake, InvalidURI, EOFError) as error:
            raise _Away(f"the host doesn't answer: {error}") from error

    async def _read(self, socket: ClientConnection) -> bool:
        """What comes, until the end (true) or until the connection breaks."""
        while True:
            try:
                message = await socket.recv()
            except ConnectionClosed as closed:
                if closed.rcvd is not None and closed.rcvd.code == TAKEN_OVER:
                    raise Conflict("another client has taken the session", code="taken_over") from closed
                return self._closing
            if isinstance(message, bytes):
                stream, data = (STDOUT, message) if self._opening.tty else (message[0], message[1:])
                self._received += len(data)
                self._tell(Output(stream, data))
                continue
            answer = json.loads(message)
            if answer["type"] == "error":
                raise _refused(answer)
            if answer["type"] == "ack":
                self._acknowledged(int(answer["received"]))
            elif answer["type"] == "exit":
                self._tell(Ended(int(answer["code"])))
                with contextlib.suppress(ConnectionClosed):
                    await socket.send(_CLOSE)
                return True

    async def _write(self, socket: ClientConnection) -> None:
        """What is due, while the connection lasts; an order that could not be sent stays."""
        acknowledged = frames = 0
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._due.clear()
                while (start := self._sent - self._before) < len(self._input):
                    piece = bytes(self._input[start : start + _PIECE])
                    await socket.send(piece if self._opening.tty else bytes([STDIN]) + piece)
                    self._sent += len(piece)
                while self._orders:
                    await socket.send(json.dumps(self._orders[0]))
                    self._orders.popleft()
                if self._used - acknowledged >= ACK_BYTES or self._frames - frames >= _ACK_FRAMES:
                    acknowledged, frames = self._used, self._frames
                    await socket.send(json.dumps({"type": "ack", "received": acknowledged}))
                if not self._due.is_set():
                    await self._due.wait()

    def _acknowledged(self, count: int) -> None:
        """The command has so many bytes of the input."""
        done = count - self._before
        del self._input[:done]
        self._before = count
        self._room.set()

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._news.set()


class _Away(Exception):
    """No connection can be made now."""


def _refused(answer: dict[str, Any]) -> HakuRiverError:
    error = from_json(int(answer["status"]), answer)
    if error.instance_code == "session_gone":
        return SessionLost(error.message)
    return error


def _decoded(body: bytes | bytearray) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None
