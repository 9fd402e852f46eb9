"""Shells and commands in environment containers: a real engine, real WebSockets, connections that break."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from daemons.host.environments import sessions as serving
from daemons.host.environments.containers import LABEL_ENVIRONMENT
from daemons.host.environments.outbox import PIECE, Outbox
from hakuriver.api import common_headers
from hakuriver.errors import Conflict, HakuRiverError, NotFound, Unauthenticated, UsageError
from hakuriver.paths import host_path
from hakuriver.terminal import (
    ACK_BYTES,
    STDERR,
    STDOUT,
    WINDOW,
    Back,
    Ended,
    Lost,
    Opening,
    Output,
    Session,
    SessionLost,
)
from tests.api.conftest import Running, running_host
from tests.api.peer import eventually


class Shells:
    """Sessions of one environment, all closed in the end; ``url`` may be that of a proxy."""

    def __init__(self, running: Running, engine: docker.DockerClient) -> None:
        self.running = running
        self.url = running.url
        self._engine = engine
        self._all: list[Session] = []

    async def open(self, *command: str, environment: str = "work", **more: Any) -> Session:
        opening = Opening(command=list(command) or None, **more)
        session = Session(lambda: (self.url, self.running.tokens.user), environment, opening)
        self._all.append(session)
        await session.start()
        return session

    async def run(self, *command: str, stdin: bytes = b"", **more: Any) -> tuple[int, bytes, bytes]:
        """Code, stdout, stderr of a command without a terminal."""
        session = await self.open(*command, tty=False, **more)
        await session.send(stdin)
        session.send_eof()
        return await all_of(session)

    def processes(self) -> str:
        """What runs in the container, as the engine sees it."""
        assert self.container is not None
        rows = self._engine.api.top(self.container, "-eo pid,args")["Processes"]
        return "\n".join(" ".join(row[1:]) for row in rows)

    async def without(self, text: str) -> None:
        """Wait until no process has this in its command line."""

        async def look() -> bool:
            return text not in await asyncio.to_thread(self.processes)

        await eventually(look)

    @property
    def container(self) -> str | None:
        return self.running.host.environments.containers.id_of("work")

    async def close(self) -> None:
        await asyncio.gather(*(each.close() for each in self._all))


async def all_of(session: Session) -> tuple[int, bytes, bytes]:
    said = {STDOUT: bytearray(), STDERR: bytearray()}
    async with asyncio.timeout(60):
        while not isinstance(event := await session.receive(), Ended):
            if isinstance(event, Output):
                said[event.stream] += event.data
    return event.code, bytes(said[STDOUT]), bytes(said[STDERR])


async def until_said(session: Session, text: bytes) -> bytes:
    """Everything up to the first output that ends with this text."""
    said = bytearray()
    async with asyncio.timeout(30):
        while text not in said:
            event = await session.receive()
            assert not isinstance(event, Ended), bytes(said)
            if isinstance(event, Output):
                said += event.data
    return bytes(said)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient) -> Iterator[Path]:
    """The state of a cluster whose container all tests share; each has a host of its own."""
    found = tmp_path_factory.mktemp("shells")
    yield found
    for each in engine.containers.list(all=True, filters={"label": f"{LABEL_ENVIRONMENT}=work"}):
        if any(str(found) in mount["Source"] for mount in each.attrs["Mounts"]):
            each.remove(force=True)


@pytest.fixture
async def shells(folder: Path, engine: docker.DockerClient, busybox: str) -> AsyncIterator[Shells]:
    """An environment with a running container."""
    async with running_host(folder) as running:
        environments = running.host.environments
        await eventually(lambda: environments.engine.api)
        await environments.containers.refresh()
        if environments.containers.state("work") == "missing":
            body = {"name": "work", "image": busybox}
            async with running.user.open("POST", host_path("create"), body=body) as response:
                lines = [json.loads(line) async for line in response.aiter_lines()]
            assert lines[-1]["type"] == "done", lines
        await environments.containers.start("work")
        made = Shells(running, engine)
        try:
            yield made
        finally:
            await made.close()


async def test_the_size_is_right_from_the_first_prompt_and_after_each_change(shells: Shells) -> None:
    session = await shells.open("sh", "-c", "stty size; read -r _; stty size", rows=33, cols=101)
    assert await until_said(session, b"\n") == b"33 101\r\n"
    session.resize(50, 132)
    trapped = await shells.open("sh", "-c", "trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done")
    await until_said(trapped, b"up\r\n")
    trapped.resize(7, 9)
    assert await until_said(trapped, b"\n") == b"7 9\r\n"
    await session.send(b"\n")
    assert (await all_of(session))[:2] == (0, b"\r\n50 132\r\n")


async def test_the_best_shell_there_is_with_the_variables_of_the_terminal(shells: Shells) -> None:
    session = await shells.open(env={"TERM": "xterm-256color", "LANG": "C.UTF-8"})
    await session.send(b"echo $TERM:$LANG:$0 \xc3\xa4; exit 3\r")
    code, said, _ = await all_of(session)
    assert code == 3
    assert b"\r\nxterm-256color:C.UTF-8:sh \xc3\xa4\r\n" in said
    typed = rb"(echo [^\r]*\r\n)?"  # its echo comes first where the shell is slow
    assert re.match(typed + rb"\r\n\r\nBusyBox", said), "what starts it is not seen, nor its echo"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["nothing-of-that-name"], 127),
        (["/etc/passwd"], 126),
        (["sh", "-c", "kill -9 $$"], 137),
    ],
)
async def test_exit_codes_are_those_of_the_command(shells: Shells, command: list[str], code: int) -> None:
    assert (await shells.run(*command))[0] == code


async def test_streams_are_apart_users_and_folders_chosen_and_bytes_untouched(shells: Shells) -> None:
    said = await shells.run("sh", "-c", "id -un; pwd; echo no >&2", user="user", workdir="/tmp")
    assert said == (0, b"user\n/tmp\n", b"no\n")
    data = secrets.token_bytes(300_000) + b"\0\x01\x02\x04\x1b\n"
    assert await shells.run("cat", stdin=data) == (0, data, b"")


async def test_a_megabyte_on_a_terminal_and_utf_8_in_pieces(shells: Shells) -> None:
    session = await shells.open("sh", "-c", "stty raw -echo; cat /tmp/big")
    assert (await shells.run("sh", "-c", "cat > /tmp/big", stdin=(text := "§ä界🙂".encode() * 90_000)))[
        0
    ] == 0
    session = await shells.open("sh", "-c", "stty raw -echo; cat /tmp/big")
    code, said, _ = await all_of(session)
    assert (code, hashlib.sha256(said).hexdigest()) == (0, hashlib.sha256(text).hexdigest())


async def test_ctrl_c_reaches_what_runs(shells: Shells) -> None:
    session = await shells.open("sh")
    # it speaks itself: a shell that says so first may not have given it the terminal yet
    await session.send(b"stty -echo; sh -c \"echo be''gin; exec sleep 1000\"\r")
    await until_said(session, b"begin\r\n")
    session.interrupt()
    await until_said(session, b"# ")
    await session.send(b"echo code $?\r")
    await until_said(session, b"code 130")
    plain = await shells.open("sh", "-c", "echo up; sleep 1000", tty=False)
    await until_said(plain, b"up")
    plain.interrupt()
    assert (await all_of(plain))[0] == 130


async def test_what_is_closed_is_hung_up_but_nohup_goes_on(shells: Shells) -> None:
    script = "sleep 1111 & (trap '' HUP; sleep 2222) & echo up; trap : HUP; while :; do sleep 3333; done"
    session = await shells.open("sh", "-c", script)
    await until_said(session, b"up")
    await session.close()
    await shells.without("sleep 1111")
    await shells.without("trap : HUP")
    assert "sleep 2222" in shells.processes()


async def test_a_client_that_never_comes_back(shells: Shells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "KEPT", 0.2)
    async with _raw(shells) as socket:
        await socket.send(json.dumps({"type": "open", "command": ["sleep", "4444"], "tty": True}))
        assert json.loads(await socket.recv())["type"] == "session"
        socket.transport.abort()
    await shells.without("sleep 4444")
    await eventually(lambda: not shells.running.host.environments.sessions.all())


async def test_who_doesnt_read_makes_it_wait(shells: Shells) -> None:
    size = 6 * WINDOW
    session = await shells.open("sh", "-c", f"head -c {size} /dev/zero; echo end >&2", tty=False)
    (kept,) = shells.running.host.environments.sessions.all()
    await eventually(lambda: kept.weight >= WINDOW)
    assert kept.weight < WINDOW + 2 * PIECE
    assert "head" in shells.processes()
    code, said, error = await all_of(session)
    assert (code, len(said), error) == (0, size, b"end\n")


class Cutter:
    """A way to the host that breaks again and again: after so many bytes each connection is reset, and what
    was under way is lost. ``open`` False: nobody gets through."""

    def __init__(self, target: str, seed: int, most: int) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._random = random.Random(seed)
        self._most = most
        self.cuts = 0
        self.open = True
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if not self.open:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers.append(far_writer)
        left = self._random.randrange(2_000, self._most)
        there = asyncio.create_task(self._copy(reader, far_writer, left))
        back = asyncio.create_task(self._copy(far_reader, writer, left))
        done, _ = await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        self.cuts += any(copied.result() for copied in done)
        for copying in (there, back):
            copying.cancel()
        for each in (writer, far_writer):
            each.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int) -> bool:
        with contextlib.suppress(OSError):
            while data := await reader.read(min(left, 65536)):
                writer.write(data)
                await writer.drain()
                left -= len(data)
                if left <= 0:
                    return True
        return False

    def cut(self) -> None:
        for each in self._writers:
            each.transport.abort()


@contextlib.asynccontextmanager
async def _cutting(shells: Shells, seed: int, most: int) -> AsyncIterator[Cutter]:
    cutter = Cutter(shells.running.url, seed, most)
    server = await asyncio.start_server(cutter.serve, "127.0.0.1", 0)
    shells.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield cutter
    finally:
        cutter.open = False
        server.close()
        cutter.cut()


@pytest.mark.parametrize("tty", [False, True])
async def test_connections_that_break_lose_and_double_nothing(shells: Shells, tty: bool) -> None:
    data = bytes(5000) + secrets.token_bytes(1_490_000) + b"\x10\x11" * 2500  # with what detaches docker
    script = "stty raw -echo; echo >&2; head -c 1500000" if tty else "cat; echo end >&2"
    async with _cutting(shells, seed=7, most=200_000) as cutter:
        session = await shells.open("sh", "-c", script, tty=tty)
        if tty:
            await until_said(session, b"\n")

        async def feed() -> None:
            for start in range(0, len(data), 10_000):
                await session.send(data[start : start + 10_000])
            session.send_eof()

        feeding = asyncio.create_task(feed())
        code, said, error = await all_of(session)
        await feeding
        assert cutter.cuts >= 3
    assert (code, hashlib.sha256(said).hexdigest()) == (0, hashlib.sha256(data).hexdigest())
    assert error == (b"" if tty else b"end\n")


async def test_a_break_is_told_and_the_same_shell_goes_on(shells: Shells) -> None:
    async with _cutting(shells, seed=1, most=10**9) as cutter:
        session = await shells.open("sh")
        await session.send(b"stty -echo; PS1=; word=kept\r")
        cutter.open = False
        cutter.cut()
        assert isinstance(await _next(session, Lost, Back), Lost)
        await session.send(b"echo $word\r")
        session.resize(44, 55)
        cutter.open = True
        assert isinstance(await _next(session, Lost, Back), Back)
        await until_said(session, b"kept")
        await session.send(b"stty size\r")
        await until_said(session, b"44 55")


async def _next(session: Session, *kinds: type) -> object:
    async with asyncio.timeout(20):
        while not isinstance(event := await session.receive(), kinds):
            pass
    return event


async def test_another_connection_takes_a_session_over(shells: Shells) -> None:
    session = await shells.open("cat")
    number = session._id
    async with _raw(shells) as socket:
        await socket.send(json.dumps({"type": "attach", "session": number, "received": 0}))
        assert json.loads(await socket.recv())["id"] == number
        with pytest.raises(Conflict, match="taken"):
            await _next(session, Ended)


async def test_a_new_connection_is_told_what_the_last_one_may_have_missed(shells: Shells) -> None:
    size = 3 * ACK_BYTES
    async with _raw(shells) as socket:
        await socket.send(json.dumps({"type": "open", "command": ["sh", "-c", "cat >/dev/null"]}))
        number = json.loads(await socket.recv())["id"]
        for _ in range(size // 2**15):
            await socket.send(b"\0" + bytes(2**15))
        while json.loads(await socket.recv())["received"] < 2 * ACK_BYTES:
            pass
    async with _raw(shells) as socket:
        await socket.send(json.dumps({"type": "attach", "session": number, "received": 0}))
        assert json.loads(await socket.recv())["received"] == size, "it goes on from here"
        assert json.loads(await socket.recv())["received"] >= 2 * ACK_BYTES, "it need not keep more"
        await socket.send('{"type": "close"}')


async def test_a_host_that_stops_hangs_up_and_the_next_one_says_so(shells: Shells) -> None:
    async with _cutting(shells, seed=1, most=10**9) as cutter:
        session = await shells.open("sleep", "5555")
        cutter.open = False  # else it may hear how its command ended
        cutter.cut()
        await shells.running.host.environments.sessions.hang_up()
        cutter.open = True
        with pytest.raises(SessionLost, match="the session is over"):
            await _next(session, Ended)
    await shells.without("sleep 5555")


Refused = tuple[Callable[[Shells], Awaitable[object]], type[HakuRiverError], str]


async def _stopped(shells: Shells) -> object:
    await shells.running.host.environments.containers.stop("work")
    return await shells.open("true")


async def _foreign(shells: Shells) -> object:
    session = Session(lambda: (shells.url, "wrong"), "work", Opening())
    try:
        await session.start()
    finally:
        await session.close()
    return session


REFUSED: list[Refused] = [
    (lambda shells: shells.open(environment="other"), NotFound, "no container"),
    (lambda shells: shells.open("id", user="nobody-there"), NotFound, "no user nobody-there"),
    (lambda shells: shells.open("id", user="0:nothing"), NotFound, "no group nothing"),
    (lambda shells: shells.open("id", workdir="/not/there"), NotFound, "no folder /not/there"),
    (lambda shells: shells.open("id", user="-x"), UsageError, "user"),
    (lambda shells: shells.open("id", workdir="tmp"), UsageError, "workdir"),
    (lambda shells: shells.open("a\0b"), UsageError, "NUL"),
    (lambda shells: shells.open("id", env={"PATH": "/evil"}), UsageError, "env"),
    (_stopped, Conflict, "stopped"),
    (_foreign, Unauthenticated, "credential"),
]


@pytest.mark.parametrize(("act", "kind", "text"), REFUSED)
async def test_refusals(
    shells: Shells,
    act: Callable[[Shells], Awaitable[object]],
    kind: type[HakuRiverError],
    text: str,
) -> None:
    with pytest.raises(kind, match=text):
        await act(shells)


@contextlib.asynccontextmanager
async def _raw(shells: Shells, token: str | None = None) -> AsyncIterator[Any]:
    url = f"ws{shells.url.removeprefix('http')}{host_path('exec', name='work')}"
    headers = common_headers(token or shells.running.tokens.user)
    async with connect(
        url, additional_headers=headers, compression=None, proxy=None, close_timeout=1
    ) as socket:
        yield socket


@pytest.mark.parametrize(
    "message",
    [
        "",
        "nonsense",
        b"\0bytes",
        '{"type": "resize", "rows": 1, "cols": 1}',
        '{"type": "open", "rows": 0}',
        '{"type": "open", "more": 1}',
        '{"type": "attach", "session": "../x", "received": 0}',
    ],
)
async def test_nonsense_is_answered_and_nothing_runs(shells: Shells, message: str | bytes) -> None:
    async with _raw(shells) as socket:
        await socket.send(message)
        answer = json.loads(await socket.recv())
    assert (answer["type"], answer["status"]) == ("error", 400)
    assert not shells.running.host.environments.sessions.all()


@pytest.mark.parametrize(
    "message",
    [
        "nonsense",
        b"\x07not input",
        '{"type": "ack", "received": 99}',
        '{"type": "open"}',
        '{"type": "signal", "signal": 9}',
    ],
)
async def test_nonsense_in_a_session_ends_its_connection(shells: Shells, message: str | bytes) -> None:
    async with _raw(shells) as socket:
        await socket.send(json.dumps({"type": "open", "command": ["cat"]}))
        number = json.loads(await socket.recv())["id"]
        await socket.send(message)
        assert json.loads(await socket.recv())["status"] == 400
    async with _raw(shells) as socket:
        await socket.send(json.dumps({"type": "attach", "session": number, "received": 0}))
        assert json.loads(await socket.recv())["type"] == "session", "the session itself is well"
        await socket.send('{"type": "close"}')
        with contextlib.suppress(Exception):
            await socket.recv()


async def test_nodes_have_no_business_here(shells: Shells) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        async with _raw(shells, shells.running.tokens.node):
            pass


@given(st.data())
def test_an_outbox_gives_every_byte_once(data: st.DataObject) -> None:
    outbox, whole, position = Outbox(), list[tuple[int, int]](), 0
    for step in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(["add", "read", "acknowledge", "again"])):
            case "add":
                stream, count = data.draw(st.sampled_from([1, 2])), data.draw(st.integers(1, PIECE))
                outbox.add(stream, bytes([step]) * count)
                whole += [(stream, step)] * count
            case "read":
                found = outbox.after(position)
                assert (found is None) == (position == len(whole))
                if found is not None:
                    stream, piece = found
                    assert [(stream, byte) for byte in piece] == whole[position : position + len(piece)]
                    position += len(piece)
            case "acknowledge":
                assert outbox.acknowledge(data.draw(st.integers(outbox.start, position)))
            case "again":  # a connection broke: the client has less than was sent
                position = data.draw(st.integers(outbox.start, position))
    assert (outbox.end, outbox.weight >= outbox.end - outbox.start) == (len(whole), True)
    assert not outbox.acknowledge(outbox.end + 1)
    assert outbox.start == 0 or not outbox.acknowledge(outbox.start - 1)
