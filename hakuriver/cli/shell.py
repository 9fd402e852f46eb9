"""``env shell`` and ``env exec``: a terminal, or a command, in an environment's container."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from hakuriver.cli import output
from hakuriver.cli.codes import CLOSED_PIPE, INTERRUPTED
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.rawmode import Escape, Modes, is_terminal, raw_mode, size
from hakuriver.environments import check_name
from hakuriver.errors import UsageError
from hakuriver.paths import host_path

if TYPE_CHECKING:
    from hakuriver.terminal import Opening, Session

T = TypeVar("T")
READ_SIZE = 2**15
_VARIABLES = ("TERM", "COLORTERM", "LANG")
_START_TIMEOUT = 60


def _shell_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment", metavar="ENV", help="its name")
    parser.add_argument("--user", metavar="U", help="run as this user of the container")
    parser.add_argument("--workdir", metavar="D", help="folder in the container to start in")


def _exec_options(parser: argparse.ArgumentParser) -> None:
    _shell_options(parser)
    parser.add_argument("-i", "--interactive", action="store_true", help="forward standard input")
    parser.add_argument("-t", "--tty", action="store_true", help="with a terminal")


def shell(context: Context, options: argparse.Namespace) -> int:
    """The best shell of the container (or a command) on this terminal; returns its exit code."""
    if not (is_terminal(0) and is_terminal(1)):
        raise UsageError(
            "a shell needs a terminal", hint=f"hakuriver env exec {options.environment} -- COMMAND"
        )
    return _attend(context, options, terminal=True, forward=True)


def exec_(context: Context, options: argparse.Namespace) -> int:
    """A command in the container; returns its exit code."""
    if not context.command:
        raise UsageError(
            "env exec needs a command", hint=f"hakuriver env exec {options.environment} -- COMMAND"
        )
    if options.tty and options.interactive and not is_terminal(0):
        raise UsageError("-t with -i needs a terminal as standard input", hint="leave out -t to feed a pipe")
    return _attend(context, options, terminal=options.tty, forward=options.interactive)


def _attend(context: Context, options: argparse.Namespace, *, terminal: bool, forward: bool) -> int:
    name = check_name(options.environment)
    found = context.client().request("GET", host_path("environment", name=name))
    if found["container"] == "stopped":
        output.say(f"starting the container of environment {name}")
        context.client().request("POST", host_path("start", name=name), timeout=_START_TIMEOUT)
    from hakuriver.terminal import Opening

    rows, columns = size()
    opening = Opening(
        command=context.command or None,
        tty=terminal,
        rows=rows,
        cols=columns,
        env={key: context.environ[key][:200] for key in _VARIABLES if terminal and key in context.environ},
        user=options.user,
        workdir=options.workdir,
    )
    return asyncio.run(_Foreground(context, name, opening, forward=forward).run())


class _Foreground:
    """One session on our own standard streams."""

    def __init__(self, context: Context, name: str, opening: Opening, *, forward: bool) -> None:
        from hakuriver.terminal import Session

        def where() -> tuple[str, str]:
            found = context.endpoint()
            return found.url, found.token

        self._session: Session = Session(where, name, opening)
        self._terminal = opening.tty
        self._forward = forward
        self._raw = opening.tty and forward and is_terminal(0)
        self._modes = Modes()
        self._left: asyncio.Future[int]
        self._interrupts = 0
        self._started = False
        self._lost = False
        self._ended = False

    async def run(self) -> int:
        """Until it has ended or we leave it; returns the exit code. Raises HakuRiverError."""
        loop = asyncio.get_running_loop()
        self._left = loop.create_future()
        with self._signals(loop):
            try:
                return await self._begin()
            finally:
                await self._session.close()

    async def _begin(self) -> int:
        starting = asyncio.create_task(self._session.start())
        waiting: set[asyncio.Future[Any]] = {starting, self._left}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if self._left.done():
            starting.cancel()
            return self._left.result()
        starting.result()
        self._started = True
        with raw_mode() if self._raw else contextlib.nullcontext():
            return await self._attend()

    async def _attend(self) -> int:
        showing = asyncio.create_task(self._show())
        sending = asyncio.create_task(self._send()) if self._forward else None
        if sending is None:
            self._session.send_eof()
        try:
            await asyncio.wait({showing, self._left}, return_when=asyncio.FIRST_COMPLETED)
            return showing.result() if showing.done() else self._left.result()
        finally:
            for each in filter(None, (showing, sending)):
                each.cancel()
            if self._raw and not self._ended:
                with contextlib.suppress(OSError):
                    os.write(1, self._modes.undo())

    async def _show(self) -> int:
        """Everything that happens, to its end."""
        from hakuriver.terminal import Ended, Lost, Output

        writer = _Blocking("output")
        while not isinstance(event := await self._session.receive(), Ended):
            if isinstance(event, Output):
                self._modes.see(event.data)
                try:
                    await writer.call(partial(_write, event.stream, event.data))
                except BrokenPipeError:
                    return CLOSED_PIPE
            elif isinstance(event, Lost):
                self._lost = True
                way = "Enter ~ . leaves" if self._raw else "Ctrl-C leaves"
                self._notice(f"{event.why}, trying again ({way})")
            else:
                self._back()
        self._ended = True
        return event.code

    def _back(self) -> None:
        self._lost = False
        self._notice("connected again")
        if self._modes.full_screen:  # whatever draws there must do so again
            rows, columns = size()
            self._session.resize(rows + 1, columns)
            self._session.resize(rows, columns)

    async def _send(self) -> None:
        """Our standard input, until it or the session ends."""
        reader, escape = _Blocking("input"), Escape()
        while data := await reader.call(_read):
            if self._raw:
                data, left = escape.feed(data)
                if left:
                    self._notice("left")
                    self._leave(INTERRUPTED)
                    return
            await self._session.send(data)
        self._session.send_eof()

    @contextlib.contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        def resized() -> None:
            rows, columns = size()
            self._session.resize(rows, columns)

        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGINT: self._interrupted,
            signal.SIGTERM: lambda: self._leave(128 + signal.SIGTERM),
            signal.SIGHUP: lambda: self._leave(128 + signal.SIGHUP),
        }
        if self._terminal:
            handlers[signal.SIGWINCH] = resized
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _interrupted(self) -> None:
        """The first Ctrl-C is the command's, the second ends it."""
        self._interrupts += 1
        if self._interrupts > 1 or self._lost or not self._started:
            self._leave(INTERRUPTED)
        else:
            self._session.interrupt()

    def _leave(self, code: int) -> None:
        if not self._left.done():
            self._left.set_result(code)

    def _notice(self, text: str) -> None:
        if self._raw:
            with contextlib.suppress(OSError):
                os.write(2, f"\r\n[{text}]\r\n".encode())
        else:
            output.say(text)


class _Blocking:
    """A daemon thread for calls that may block for ever: the end of the program waits for none of them."""

    def __init__(self, purpose: str) -> None:
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._work, name=purpose, daemon=True).start()

    async def call(self, function: Callable[[], T]) -> T:
        """Its result, from the thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            try:
                result = function()
            except OSError as error:
                _tell(loop, future, error=error)
            else:
                _tell(loop, future, result=result)

        self._queue.put(job)
        return await future

    def _work(self) -> None:
        while True:
            self._queue.get()()


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], *, result: Any = None, error: Any = None
) -> None:
    def tell() -> None:
        if not future.done():
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(tell)


def _read() -> bytes:
    """What comes next on standard input; a closed one, or a terminal that is gone, is at its end."""
    try:
        return os.read(0, READ_SIZE)
    except OSError:
        return b""


def _write(stream: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view) :]


VERBS = {
    "env shell": Verb(
        shell,
        _shell_options,
        takes_command=True,
        examples=("hakuriver env shell torch", "hakuriver env shell torch --user root"),
    ),
    "env exec": Verb(
        exec_,
        _exec_options,
        takes_command=True,
        examples=(
            "hakuriver env exec torch -- pip install einops",
            "hakuriver env exec -i torch -- tar -xf - -C /opt < data.tar",
            "hakuriver env exec -it torch -- python3",
        ),
    ),
}
