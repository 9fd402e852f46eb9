"""A UNIX socket before the engine's, which calls somebody when a container is about to be started."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path


class EngineProxy:
    """Forwards bytes both ways. ``on_start`` is called once, with a function that sends the request on; what
    comes back on that connection from then on is kept from the caller. ``on_remove`` is called once, too, and
    then that connection is closed, the container stays."""

    def __init__(self, path: Path, upstream: str) -> None:
        self.url = f"unix://{path}"
        self.on_start: Callable[[Callable[[], None]], None] | None = None
        self.on_remove: Callable[[], None] | None = None
        self._upstream = upstream.removeprefix("unix://")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine, contextlib.suppress(OSError):
            engine.connect(self._upstream)
            silent = threading.Event()
            back = threading.Thread(target=_pump, args=(engine, client, silent), daemon=True)
            back.start()
            while data := client.recv(2**16):
                line = data.partition(b"\r\n")[0]
                start, remove = self.on_start, self.on_remove
                if start is not None and b"/start HTTP/" in line:
                    self.on_start = None
                    silent.set()
                    start(partial(engine.sendall, data))
                elif remove is not None and line.startswith(b"DELETE "):
                    self.on_remove = None
                    remove()
                    return
                else:
                    engine.sendall(data)
            if silent.is_set():
                back.join(60)  # the caller died, what it asked for is under way all the same


def _pump(source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            if silent.is_set():
                return
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
