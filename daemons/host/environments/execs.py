"""A command in a container with its streams: what ``docker exec`` does, and what it can't.

The engine tells neither the first process of a command before it runs nor lets anybody end it. So ``/bin/sh``
is started, says its own pid and waits for a line before it becomes the command: by then the terminal has its
size, and we know whom to signal. The stream is a raw socket on the event loop: many sessions cost no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import struct
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from docker.errors import APIError, DockerException
from docker.errors import NotFound as Absent
from docker.utils import kwargs_from_env, parse_host

from daemons.common.engine import EngineAway, EngineClient
from daemons.host.environments.images import refusal
from daemons.host.environments.messages import Open
from hakuriver.errors import Conflict, HakuRiverError, NotFound, Unreachable
from hakuriver.terminal import STDERR, STDOUT

PIECE = 2**15
_NAME = "hakuriver"
_START = (
    "printf '%s\\n' \"$$\"; IFS= read -r _ || exit 125; "
    'if [ "$#" = 0 ]; then if command -v bash >/dev/null 2>&1; then set -- bash; else set -- sh; fi; fi; '
    'exec "$@"'
)
_END = """\
sid=$1
each() {
  left=
  for stat in /proc/[0-9]*/stat; do
    { IFS= read -r line < "$stat"; } 2>/dev/null || continue
    pid=${line%% *}
    set -- "$1" ${line##*) }
    [ "${5:-}" = "$sid" ] && [ "$2" != Z ] || continue
    if [ "$1" = KILL ]; then
      lasts=
      while read -r key value; do
        case $key$value in SigIgn:*[13579bdf]) lasts=1 ;; esac
      done 2>/dev/null < "/proc/$pid/status"
      [ -z "$lasts" ] || continue
    fi
    left=1
    [ "$1" = 0 ] || kill -s "$1" "$pid" 2>/dev/null
  done
}
each HUP
each CONT
for _ in 1 2 3; do sleep 1; each 0; [ -n "$left" ] || exit 0; done
each KILL
"""
"""Hangs up a session: HUP, then KILL for all that don't ignore hangups (nohup goes on, as anywhere). The
session is the fifth word of ``stat`` after the name, which may hold anything; ignored signals are a mask."""
_SIGNAL = 'kill "-$1" "-$2"'  # the one form that dash, bash and busybox understand
_DETACH = ",".join(f"ctrl-{key}" for key in "@^_@_^]@^@_]@^]_")
"""The engine lets go of a command when it reads these keys, and holds the first of them back until the next
one comes: nobody types them all, and the first has no effect of its own in any program that we know. Its
default would swallow Ctrl-P, Ctrl-Q."""
_PAUSED = 10.0
"""Seconds for which somebody waits who wants a command in a container that is paused."""
_PACKING = 600.0
"""Seconds for which a container may be paused, as it is while it is committed."""
_STARTING = 20.0
_ENDING = 10.0


class Exec:
    """Made by ``start``; ``read`` until None, then ``result``, and ``close`` in any case."""

    def __init__(self, engine: EngineClient, container: str, number: str, *, tty: bool) -> None:
        self._engine = engine
        self._container = container
        self._id = number
        self._tty = tty
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._pid = 0
        self._left = 0  # bytes of the frame that is being read
        self._stream = STDOUT
        self._echo = False  # what comes next is what the terminal shows of the line that started it

    async def read(self) -> tuple[int, bytes] | None:
        """Some output and which stream it is of; None at its end. Raises EngineAway."""
        try:
            if self._tty:
                if self._echo:
                    await self._line()
                    self._echo = False
                data = await self._reader.read(PIECE)
                return (STDOUT, data) if data else None
            while not self._left:
                head = await self._reader.readexactly(8)
                self._stream = STDERR if head[0] == STDERR else STDOUT
                (self._left,) = struct.unpack(">I", head[4:])
            data = await self._reader.read(min(self._left, PIECE))
            self._left -= len(data)
            return (self._stream, data) if data else None
        except asyncio.IncompleteReadError:
            return None
        except OSError as error:
            raise EngineAway(f"the Docker engine doesn't answer: {error}") from error

    async def write(self, data: bytes) -> None:
        """Standard input; waits for as long as nobody reads it. What has ended takes everything."""
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    def write_eof(self) -> None:
        """The end of standard input; a terminal has none."""
        if not self._tty:
            with contextlib.suppress(OSError):
                self._writer.write_eof()

    async def resize(self, rows: int, cols: int) -> None:
        """Tell the terminal its size; what has just ended has none."""
        with contextlib.suppress(APIError, EngineAway):
            await self._engine.call(lambda api: api.exec_resize(self._id, height=rows, width=cols))

    async def signal(self, number: int) -> None:
        """Send a signal to the group of the command."""
        await self._inside(_SIGNAL, str(number), str(self._pid))

    async def hang_up(self) -> None:
        """End its session: the signals are sent in the container, also when we don't live to see it."""
        await self._inside(_END, str(self._pid))

    async def result(self) -> int:
        """Its exit code, after its output has ended; raises HakuRiverError or EngineAway."""
        give_up = time.monotonic() + _ENDING
        pause = 0.005
        while True:
            try:
                found = await self._engine.call(lambda api: api.exec_inspect(self._id))
            except APIError as error:
                raise refusal(error, "the end of the command is not known") from error
            if not found["Running"] and found["ExitCode"] is not None:
                return int(found["ExitCode"])
            if time.monotonic() > give_up:
                raise Unreachable("its output has ended, but the Docker engine says that it still runs")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    def close(self) -> None:
        """Let go of the streams."""
        self._writer.close()

    async def connect(self) -> None:
        """Start it as far as the shell that waits; raises HakuRiverError or EngineAway."""
        self._reader, self._writer = await _open()
        try:
            async with asyncio.timeout(_STARTING):
                await _upgrade(self._reader, self._writer, self._engine.api, self._id, tty=self._tty)
                line = await self._line()
            if not line.strip().isdigit():
                raise _refused(line)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            self.close()
            raise EngineAway(f"the Docker engine doesn't answer: {error}") from error
        except HakuRiverError:
            self.close()
            raise
        self._pid = int(line)

    async def go(self) -> None:
        """Let the shell become the command."""
        await self.write(b"\n")
        self._echo = self._tty

    async def _line(self) -> bytes:
        """The next line of output, or what came before its end."""
        line = b""
        while not line.endswith(b"\n") and len(line) < 2000:
            if self._tty:
                piece = await self._reader.read(1)
            else:
                found = await self.read()
                piece = found[1] if found else b""
            if not piece:
                break
            line += piece
        return line

    async def _inside(self, script: str, *arguments: str) -> None:
        """Run a script of ours in the container, and don't wait for it; a packed container is paused."""
        give_up = time.monotonic() + _PACKING
        while True:
            try:
                await self._engine.call(lambda api: _detached(api, self._container, script, *arguments))
            except EngineAway:
                return
            except APIError as error:  # the container is gone, and all that ran in it, or paused
                if "is paused" not in str(error.explanation) or time.monotonic() > give_up:
                    return
            else:
                return
            await asyncio.sleep(0.5)


async def start(engine: EngineClient, container: str, wanted: Open) -> Exec:
    """Start a command; raises Conflict, NotFound, Unreachable or EngineAway, and then nothing runs."""
    words = ["/bin/sh", "-c", _START, _NAME, *(wanted.command or ())]
    arguments: dict[str, Any] = {
        "cmd": words,
        "stdin": True,
        "tty": wanted.tty,
        "user": wanted.user or "",
        "environment": dict(wanted.env),
        "workdir": wanted.workdir,
        "detach_keys": _DETACH,
    }
    give_up = time.monotonic() + _PAUSED
    while True:
        try:
            made = await engine.call(lambda api: api.exec_create(container, **arguments))
            break
        except APIError as error:
            said = str(error.explanation or error)
            if "is paused" not in said or time.monotonic() > give_up:
                raise _not_created(error, said) from error
        await asyncio.sleep(0.2)
    found = Exec(engine, container, made["Id"], tty=wanted.tty)
    await found.connect()
    if wanted.tty:
        await found.resize(wanted.rows, wanted.cols)
    await found.go()
    return found


async def end_strays(engine: EngineClient, container: str) -> int:
    """Hang up what a host that was killed left in a container; how many there were.

    Their pids are those of the container, which this machine's kernel tells where the engine is on it.
    """
    count = 0
    with contextlib.suppress(APIError):
        inside = await engine.call(lambda api: api.inspect_container(container))
        for number in inside.get("ExecIDs") or ():
            count += await engine.call(partial(_end_stray, container=container, number=number))
    return count


def _end_stray(api: Any, container: str, number: str) -> bool:
    with contextlib.suppress(Absent):
        found = api.exec_inspect(number)
        if found["Running"] and (pid := _pid_inside(found)) is not None:
            _detached(api, container, _END, str(pid))
            return True
    return False


def _pid_inside(found: Mapping[str, Any]) -> int | None:
    """The pid that one of ours has in its container."""
    if (found.get("ProcessConfig") or {}).get("arguments", [])[1:3] != [_START, _NAME]:
        return None
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{int(found['Pid'])}/status").read_text("utf-8", "replace").splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None


def _detached(api: Any, container: str, script: str, *arguments: str) -> None:
    words = ["/bin/sh", "-c", script, _NAME, *arguments]
    made = api.exec_create(container, words, stdout=False, stderr=False, user="0")
    api.exec_start(made["Id"], detach=True)


def _not_created(error: APIError, said: str) -> HakuRiverError:
    if "is not running" in said:
        return Conflict("the container is stopped", hint="hakuriver env start starts it", code="stopped")
    if "is paused" in said:
        return Conflict("the container is paused; while it is packed nothing runs in it", code="paused")
    return refusal(error, "the command can't be started")


_MISSING = (
    (re.compile(r'chdir to cwd \("([^"]*)"\)[^:]*: no such'), "folder"),
    (re.compile(r"unable to find user ([^ :]+)"), "user"),
    (re.compile(r"unable to find group ([^ :]+)"), "group"),
)
"""What engines say of what an exec names and nobody made."""


def _refused(said: bytes) -> HakuRiverError:
    text = " ".join(said.decode("utf-8", "replace").split())[:300]
    if '"/bin/sh"' in text:
        return Conflict(
            "the container has no /bin/sh", hint="make it from an image with a shell", code="no_shell"
        )
    for form, missing in _MISSING:
        if found := form.search(text):
            return NotFound(f"the container has no {missing} {found[1]}", code=f"no_{missing}")
    return Conflict(f"the engine can't start it: {text or 'it says nothing'}", code="engine_refused")


async def _open() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of our own to the engine; raises EngineAway or Unreachable."""
    try:
        address = urlsplit(str(parse_host(kwargs_from_env().get("base_url"))))
        async with asyncio.timeout(10):
            if address.scheme == "http+unix":
                return await asyncio.open_unix_connection(
                    unquote(address.path or address.netloc), limit=PIECE
                )
            if address.scheme == "http" and "tls" not in kwargs_from_env():
                return await asyncio.open_connection(address.hostname, address.port, limit=PIECE)
    except (OSError, DockerException) as error:
        raise EngineAway(f"the Docker engine doesn't answer: {error}") from error
    raise Unreachable(
        "sessions need an engine on a socket of this machine or on plain TCP, this one is reached otherwise"
    )


async def _upgrade(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, api: Any, number: str, *, tty: bool
) -> None:
    """Start the command and turn the connection into its streams."""
    body = json.dumps({"Detach": False, "Tty": tty}).encode()
    head = [
        f"POST /v{api.api_version}/exec/{number}/start HTTP/1.1",
        *("Host: docker", "Content-Type: application/json", f"Content-Length: {len(body)}"),
        *("Connection: Upgrade", "Upgrade: tcp"),
    ]
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    await writer.drain()
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    if int(answer.split(" ", 2)[1]) not in (101, 200):
        raise _refused(await reader.read(2000))
