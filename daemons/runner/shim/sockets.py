"""UNIX sockets on which each line is a JSON object, and the one place where a process waits."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

PROTOCOL = 3  # part of the socket's name: a runner never talks to a fork server of another version
MAX_LINE = 256 * 1024
Message = dict[str, Any]


def server_name() -> str:
    """The fork server's socket in the runner's folder."""
    return f"forkserver-{PROTOCOL}.sock"


def at(folder: int, name: str) -> str:
    """A path of any depth in at most 108 bytes."""
    return f"/proc/self/fd/{folder}/{name}"


def listen(folder: int, name: str) -> socket.socket:
    """A listening socket that appears under its name only when it listens."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = f"{name}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=folder)
    found.bind(at(folder, fresh))
    found.listen(128)
    found.setblocking(False)
    os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    return found


def say(client: socket.socket, message: object) -> bool:
    """Send one line; False when the client is gone or doesn't read."""
    data = json.dumps(message).encode() + b"\n"
    try:
        return client.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(data)
    except OSError:
        return False


class Clients:
    """Connections and the lines that come from them."""

    def __init__(
        self, selector: selectors.BaseSelector, answer: Callable[[socket.socket, Message], None]
    ) -> None:
        self._selector = selector
        self._answer = answer
        self.buffers: dict[socket.socket, bytes] = {}

    def accept(self, listening: socket.socket) -> socket.socket | None:
        try:
            client, _ = listening.accept()
        except OSError:
            return None
        self.add(client)
        return client

    def add(self, client: socket.socket) -> None:
        client.setblocking(False)
        self.buffers[client] = b""
        self._selector.register(client, selectors.EVENT_READ, lambda: self._read(client))

    def forget(self, client: socket.socket) -> None:
        """Stop listening to a client without closing it."""
        if self.buffers.pop(client, None) is not None:
            self._selector.unregister(client)

    def drop(self, client: socket.socket) -> None:
        self.forget(client)
        client.close()

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        lines = (self.buffers[client] + data).split(b"\n")
        if not data or len(lines[-1]) > MAX_LINE:
            self.drop(client)
            return
        self.buffers[client] = lines[-1]
        for line in lines[:-1]:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self.drop(client)
            elif client in self.buffers:
                self._answer(client, message)


def wake_on_child(selector: selectors.BaseSelector) -> None:
    """Make the end of a child wake ``selector``."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector.register(reader, selectors.EVENT_READ, lambda: os.read(reader, 4096))


def wait_for(selector: selectors.BaseSelector, due: float) -> None:
    """Handle what comes until ``due``, once."""
    for key, _ in selector.select(max(0.0, due - time.monotonic())):
        if key.fileobj in selector.get_map():
            key.data()
