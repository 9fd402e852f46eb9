"""Running a daemon: a listening socket, its loops in one task group, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping

import uvicorn
from starlette.types import ASGIApp

from daemons.common.log import Log
from hakuriver.endpoint import is_loopback
from hakuriver.errors import Conflict, HakuRiverError, NotAllowed, UsageError

Loop = Callable[[], Awaitable[None]]
log = Log("daemon")
MAX_FRAME = 2**20
"""Bytes of one message of a WebSocket."""


def listen(address: str, port: int, *, insecure_bind: bool, flag: str) -> socket.socket:
    """A bound socket; refuses other addresses than loopback until somebody says that it is meant."""
    if not is_loopback(address) and not insecure_bind:
        raise NotAllowed(
            f"listening on {address} would send credentials over the network in clear text",
            hint=f"if that network is trusted: {flag} --insecure-bind",
        )
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio turns off Nagle (40 ms a request) only for sockets that say that they are TCP.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((address, port))
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"port {port} on {address} is in use", hint="choose another with --port", code="port_in_use"
            ) from error
        raise UsageError(f"can't listen on {address}:{port}: {error.strerror}") from error
    found.listen(512)
    return found


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: ours end the loops as well."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    app: ASGIApp,
    listening: socket.socket,
    loops: Mapping[str, Loop],
    *,
    on_stop: Loop | None = None,
    websockets: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT. A loop that fails is a bug: it ends the daemon, which says why.

    On a signal: stop accepting, cancel the loops, run ``on_stop`` (bounded), close the streams.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
            timeout_keep_alive=75,
            ws="websockets-sansio" if websockets else "none",
            ws_max_size=MAX_FRAME,
            ws_per_message_deflate=False,
            server_header=False,
        )
    )
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_named(name, each)) for name, each in loops.items()]
        serving = group.create_task(server.serve(sockets=[listening]))
        tasks.append(group.create_task(_ended(serving, stop)))
        await stop.wait()
        log.info("stopping")
        for task in tasks:
            task.cancel()
        if on_stop is not None:
            try:
                async with asyncio.timeout(3):
                    await on_stop()
            except (TimeoutError, HakuRiverError) as error:
                log.warning("stop_incomplete", error=str(error) or "timed out")
        server.should_exit = True


async def _named(name: str, each: Loop) -> None:
    await each()
    raise RuntimeError(f"loop {name} ended by itself")


async def _ended(serving: asyncio.Task[None], stop: asyncio.Event) -> None:
    await asyncio.wait([serving])
    stop.set()
