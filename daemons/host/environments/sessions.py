"""Shells and commands in environment containers, as clients see them: a session outlives its connection.

Its output is kept until the client has acknowledged it, and no more than a window is read meanwhile; its
input is counted. So a client that comes back within a minute goes on without a byte lost or doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from daemons.common.engine import EngineAway, EngineClient
from daemons.common.log import Log
from daemons.common.threads import until
from daemons.host.environments import execs, messages
from daemons.host.environments.containers import Containers
from daemons.host.environments.execs import Exec
from daemons.host.environments.messages import Ack, Attach, Close, Eof, Open, Resize, Signal
from daemons.host.environments.outbox import Outbox
from hakuriver.errors import Conflict, HakuRiverError, NotFound, TooMany, Unreachable, UsageError
from hakuriver.terminal import ACK_BYTES, KEPT, STDIN, TAKEN_OVER, WINDOW

MOST = 128
FIRST_WORD = 15.0
"""Seconds in which a connection must say what it wants."""
ABNORMAL = 1006
POLL = 5.0
_GONE = (WebSocketDisconnect, RuntimeError, OSError)
"""What is raised by a WebSocket whose client has left, and by one that was closed already."""
log = Log("sessions")


class Session:
    """One command and whoever looks at it. ``live`` is its whole life."""

    def __init__(self, command: Exec, owner: str, environment: str, *, tty: bool) -> None:
        self.id = secrets.token_hex(16)
        self.owner = owner
        self.environment = environment
        self._command = command
        self._tty = tty
        self._outbox = Outbox()
        self._end: dict[str, Any] | None = None
        self._closed = False
        self._input: deque[bytes] = deque()
        self._taken = 0  # bytes of input that came
        self._written = 0  # of those: that the command's pipe has
        self._input_ends: int | None = None
        self._client: WebSocket | None = None
        self._left_at = time.monotonic()
        self._more = asyncio.Event()  # for whoever sends: there is output, an end, or input to acknowledge
        self._room = asyncio.Event()
        self._fed = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def weight(self) -> int:
        """What its output costs that nobody has acknowledged."""
        return self._outbox.weight

    # ---- its life

    async def live(self) -> None:
        """Until nobody wants it any more: it has ended and its client knows, or its client is gone."""
        pump, feed = asyncio.create_task(self._pump()), asyncio.create_task(self._feed())
        wanted = asyncio.create_task(self._wanted())
        try:
            await asyncio.wait({pump, wanted}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                feed.cancel()
                self._end = pump.result()
                self._more.set()
                await wanted
            else:
                await self._command.hang_up()
        finally:
            for each in (pump, feed, wanted):
                each.cancel()
            self._command.close()

    async def hang_up(self) -> None:
        """End what runs."""
        if self._end is None:
            await self._command.hang_up()

    async def _wanted(self) -> None:
        while not self._closed:
            left = KEPT if self._client is not None else self._left_at + KEPT - time.monotonic()
            if left <= 0:
                return
            self._changed.clear()
            await until(self._changed, left)

    async def _pump(self) -> dict[str, Any]:
        """Output to the outbox, as far as there is room; returns how it ended."""
        try:
            while (piece := await self._command.read()) is not None:
                self._outbox.add(*piece)
                self._more.set()
                while self._outbox.weight >= WINDOW:
                    self._room.clear()
                    await self._room.wait()
            return {"type": "exit", "code": await self._command.result()}
        except EngineAway as error:
            return refusal(Unreachable(str(error)))
        except HakuRiverError as error:
            return refusal(error)

    async def _feed(self) -> None:
        """Input to the command, for as long as it takes it."""
        while True:
            while self._input:
                data = self._input.popleft()
                await self._command.write(data)
                self._written += len(data)
                self._more.set()
            if self._input_ends is not None and self._written >= self._input_ends:
                self._command.write_eof()
                return
            self._fed.clear()
            await self._fed.wait()

    # ---- its client

    async def attend(self, socket: WebSocket, received: int) -> None:
        """Serve a connection until it is over; ``received``: bytes of output that it has."""
        if not self._outbox.start <= received <= self._outbox.end:
            raise Conflict("the session has no such place in its output", code="session_place")
        before, self._client = self._client, socket
        self._changed.set()
        sending: asyncio.Task[None] | None = None
        try:
            if before is not None:
                with contextlib.suppress(*_GONE):
                    await before.close(TAKEN_OVER)
            await _say(socket, {"type": "session", "id": self.id, "received": self._taken})
            sending = asyncio.create_task(self._send(socket, received))
            while not self._closed:
                await self._hear(await socket.receive())
        finally:
            if sending is not None:
                sending.cancel()
            if self._client is socket:
                self._client, self._left_at = None, time.monotonic()
                self._changed.set()

    async def _send(self, socket: WebSocket, position: int) -> None:
        acknowledged = 0  # as far as this connection has told
        with contextlib.suppress(*_GONE):  # whoever listens knows
            while True:
                self._more.clear()
                if (piece := self._outbox.after(position)) is not None:
                    stream, data = piece
                    await socket.send_bytes(data if self._tty else bytes([stream]) + data)
                    position += len(data)
                    continue
                if self._end is not None:
                    await socket.send_json(self._end)
                    return
                if self._written - acknowledged >= ACK_BYTES:
                    acknowledged = self._written
                    await socket.send_json({"type": "ack", "received": acknowledged})
                await self._more.wait()

    async def _hear(self, event: Any) -> None:
        """One frame; raises UsageError for what no client of ours says."""
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code") or ABNORMAL)
        if (data := event.get("bytes")) is not None:
            self._take(data)
            return
        message = messages.later(event.get("text") or "")
        match message:
            case Ack(received=received):
                if not self._outbox.acknowledge(received):
                    raise UsageError(f"{received} bytes can't be acknowledged", code="invalid_message")
                self._room.set()
            case Resize(rows=rows, cols=cols):
                if self._tty:
                    await self._command.resize(rows, cols)
            case Eof(sent=sent):
                self._input_ends = sent
                self._fed.set()
            case Signal(signal=number):
                if self._end is None:
                    await self._command.signal(number)
            case Close():
                self._closed = True
                self._changed.set()

    def _take(self, data: bytes) -> None:
        if not self._tty:
            if data[:1] != bytes([STDIN]):
                raise UsageError("input begins with a byte 0", code="invalid_message")
            data = data[1:]
        self._taken += len(data)
        if self._taken - self._written > 2 * WINDOW:
            raise UsageError("more input than was acknowledged", code="invalid_message")
        if data:
            self._input.append(data)
            self._fed.set()


class Sessions:
    """All sessions of the host."""

    def __init__(self, engine: EngineClient, containers: Containers) -> None:
        self._engine = engine
        self._containers = containers
        self._all: dict[str, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping = asyncio.Lock()
        self._swept: set[str] = set()

    def all(self) -> list[Session]:
        """Those that are kept now."""
        return list(self._all.values())

    async def run(self) -> None:
        """Loop: hang up what a host that was killed left running in containers."""
        while True:
            for name in self._containers.names():
                found = self._containers.id_of(name)
                if found is not None and self._containers.state(name) == "running":
                    with contextlib.suppress(EngineAway):
                        await self._sweep(found)
            await asyncio.sleep(POLL)

    async def _sweep(self, container: str) -> None:
        """Once for each container, and before anything of ours is started in it."""
        async with self._sweeping:
            if container not in self._swept:
                if count := await execs.end_strays(self._engine, container):
                    log.warning("strays_hung_up", container=container, count=count)
                self._swept.add(container)

    async def hang_up(self) -> None:
        """End them all: the host stops."""
        await asyncio.gather(*(each.hang_up() for each in self.all()))
        for each in self._tasks:
            each.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def serve(self, socket: WebSocket, owner: str, environment: str) -> None:
        """One connection, accepted already, from its first message to its end."""
        try:
            session, received = await self._found(await _first(socket), owner, environment)
            await session.attend(socket, received)
        except HakuRiverError as error:
            await _say(socket, refusal(error))
        except EngineAway as error:
            await _say(socket, refusal(Unreachable(str(error))))
        with contextlib.suppress(*_GONE):
            await socket.close()

    async def _found(self, wanted: Open | Attach, owner: str, environment: str) -> tuple[Session, int]:
        if isinstance(wanted, Open):
            return await self._opened(wanted, owner, environment), 0
        session = self._all.get(wanted.session)
        if session is None or (session.owner, session.environment) != (owner, environment):
            raise NotFound(
                "the session is over: the host was restarted, or nobody came back to it in time",
                code="session_gone",
            )
        return session, wanted.received

    async def _opened(self, wanted: Open, owner: str, environment: str) -> Session:
        if len(self._all) >= MOST:
            raise TooMany(f"{MOST} sessions are open on the host already")
        container = await self._containers.running(environment)
        await self._sweep(container)
        command = await execs.start(self._engine, container, wanted)
        session = Session(command, owner, environment, tty=wanted.tty)
        self._all[session.id] = session
        task = asyncio.create_task(self._keep(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        log.info("session", session=session.id, environment=environment, by=owner, tty=wanted.tty)
        return session

    async def _keep(self, session: Session) -> None:
        try:
            await session.live()
        except Exception as error:  # noqa: BLE001  a bug in one session must not end the host
            log.unexpected("session_failed", error, session=session.id)
        finally:
            del self._all[session.id]
            log.info("session_over", session=session.id, environment=session.environment)


async def _first(socket: WebSocket) -> Open | Attach:
    """What a new connection wants; raises UsageError, and WebSocketDisconnect when it leaves."""
    try:
        async with asyncio.timeout(FIRST_WORD):
            event = await socket.receive()
    except TimeoutError:
        raise UsageError("a session begins with an open or attach message", code="invalid_message") from None
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event.get("code") or ABNORMAL)
    return messages.first(event.get("text") or "")


async def _say(socket: WebSocket, message: dict[str, Any]) -> None:
    """Tell a client that may have left; whoever listens to it knows."""
    with contextlib.suppress(*_GONE):
        await socket.send_json(message)


def refusal(error: HakuRiverError) -> dict[str, Any]:
    """An error as it is said on an open WebSocket."""
    return {"type": "error", "status": error.http_status, **error.to_json()}
