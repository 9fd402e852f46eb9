"""``run``: a command on the cluster as if it ran here."""

from __future__ import annotations

import argparse
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hakuriver.cli import follow, output, sink, submit_options
from hakuriver.cli import submit as submission
from hakuriver.cli.codes import CLOSED_PIPE, INTERRUPTED
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.errors import Conflict, HakuRiverError, Unreachable, UsageError
from hakuriver.lifecycle import ENDED, State
from hakuriver.paths import MAX_STDIN, host_path

SHOW_QUEUE_AFTER = 0.5
"""Seconds in the queue before it is worth a line."""
DRAIN = 30.0
"""Seconds that the last bytes of a log may take after the task has ended."""
_INTERRUPT_GRACE = 2.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM)
_BEGUN = frozenset({State.RUNNING, State.PAUSED, *ENDED})
_FULL_PIPE = 0.002
"""Seconds before a task that doesn't read its input is tried again, at first."""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detach", action="store_true", help="print the id and leave it running")
    parser.add_argument("-i", "--interactive", action="store_true", help="forward standard input")
    submit_options.add(parser, many=False)


def run(context: Context, options: argparse.Namespace) -> int:
    """Submit, show both streams, pass Ctrl-C and SIGTERM on, and leave with the task's code."""
    if len(options.target) > 1 and not options.detach:
        raise UsageError(
            "run shows one task, several targets make several", hint="hakuriver task submit, or --detach"
        )
    answer = submission.send(context, submission.request(options, context, stdin=options.interactive))
    task = answer["tasks"][0]
    if options.detach:
        if context.json:
            output.print_json(answer["tasks"])
        else:
            print("\n".join(str(each["id"]) for each in answer["tasks"]))
        return 0
    return _Session(context, task["id"], forward=options.interactive).attend()


class _Session:
    """One task in the foreground. Everything that happens comes through one feed to the main thread."""

    def __init__(self, context: Context, task: int, *, forward: bool) -> None:
        self._context = context
        self._task = task
        self._forward = forward
        self._interrupts = 0
        self._left = INTERRUPTED  # our own code when we leave the task alone
        self._closed = False
        self._said = ""
        self._last: dict[str, Any] = {}
        self._begun = threading.Event()  # there is, or was, somebody who reads our standard input

    def attend(self) -> int:
        """Until the task has ended and its output is shown."""
        self._feed = follow.Feed(follow.task_views(self._context, [self._task]))
        with self._interruptible():
            if self._forward:
                threading.Thread(target=self._send_stdin, daemon=True).start()
            copies = [self._copy("stdout", 1), self._copy("stderr", 2)]
            while self._last.get("state") not in ENDED:
                self._one_event()
                if self._interrupts > 2:
                    output.say(f"task {self._task} is left being killed")
                    return self._left
            if self._closed:
                return CLOSED_PIPE
            self._drain(copies)
        self._explain_end()
        never_ran = self._last["exit_code"] is None and self._last["signal"] is None
        return self._left if self._interrupts and never_ran else follow.code_of(self._last)

    def _one_event(self) -> None:
        waiting = self._last.get("state") == State.PENDING and self._last["reason"] != self._said
        try:
            event = self._feed.next(SHOW_QUEUE_AFTER if waiting else None)
        except queue.Empty:
            self._said = self._last["reason"]
            why = self._said.removeprefix("waiting: ")
            output.say(f"task {self._task} waits{f': {why}' if why else ''}")
            return
        if isinstance(event, signal.Signals):
            self._interrupt(event)
        elif event == "closed":
            self._closed = True
            self._order("kill", {})
        else:
            self._last = event
            if event["state"] in _BEGUN:
                self._begun.set()

    def _interrupt(self, number: signal.Signals) -> None:
        """The first signal is the task's, the second kills it, the third leaves it to its end."""
        self._interrupts += 1
        self._left = 128 + number
        if self._interrupts == 1:
            try:
                self._order("signal", {"signal": int(number)})
                return
            except Conflict:  # it doesn't run yet: nothing to interrupt, so it goes
                pass
        if self._interrupts <= 2:
            output.say(f"killing task {self._task} (once more leaves it)")
            self._order("kill", {"grace": _INTERRUPT_GRACE})

    def _order(self, what: str, body: dict[str, Any]) -> None:
        try:
            self._context.client().request("POST", host_path(what, id=self._task), body=body)
        except Unreachable as error:
            output.say(f"{what} could not be sent: {error.message}; press Ctrl-C again to try again")
            self._interrupts = min(self._interrupts, 1)

    def _copy(self, stream: str, fd: int) -> threading.Thread:
        thread = threading.Thread(target=self._copy_log, args=(stream, fd), daemon=True)
        thread.start()
        return thread

    def _copy_log(self, stream: str, fd: int) -> None:
        target = sink.Sink(stream, sys.stdout if fd == 1 else sys.stderr, as_json=self._context.json)
        patience = follow.Patience(patient=True, silent=True)
        try:
            for chunk in follow.log(self._context, self._task, stream, follow=True, patience=patience):
                target.write(chunk)
            target.close()
        except BrokenPipeError:
            self._feed.put("closed")
        except (HakuRiverError, OSError) as error:
            output.say(f"{stream} of task {self._task} can't be shown: {error}")

    def _drain(self, copies: list[threading.Thread]) -> None:
        give_up = time.monotonic() + DRAIN
        for thread in copies:
            while thread.is_alive() and time.monotonic() < give_up and self._interrupts <= 2:
                thread.join(0.1)
        if any(thread.is_alive() for thread in copies):
            output.say(f"the end of the output is not here yet: hakuriver task logs {self._task}")

    def _explain_end(self) -> None:
        task = self._last
        if task["state"] not in (State.COMPLETED, State.FAILED) or task["error"]:
            said = task["error"] or task["reason"]
            output.say(f"task {self._task}: {task['state']}{f', {said}' if said else ''}")

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        def note(number: int, _: object) -> None:
            if self._last.get("state") in ENDED:
                self._interrupts, self._left = 3, 128 + number
            self._feed.put(signal.Signals(number))

        before = {number: signal.signal(number, note) for number in _FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _send_stdin(self) -> None:
        """Our standard input to the task's, by offset: a piece whose answer was lost is not doubled."""
        start, held, ended, pause = 0, b"", False, _FULL_PIPE
        patience = follow.Patience(patient=True, silent=True)
        _widen(0)
        self._begun.wait()
        while self._last.get("state") not in ENDED:
            if not held and not ended:
                held = _read_input()
                ended = not held
            try:
                wanted = self._post_stdin(start, held, eof=ended)
            except Unreachable as error:
                patience.lost(error)
                continue
            except HakuRiverError as error:
                if error.instance_code == "not_running":  # not again yet, or not any more
                    patience.lost(Unreachable("the task does not run"))
                    continue
                if error.instance_code == "stdin_closed":  # it has read what it wanted
                    return
                output.say(f"standard input can't be forwarded: {error.message}")
                return
            if ended and not held:
                return
            patience.found()
            if wanted <= start:  # its pipe is full
                time.sleep(pause)
                pause = min(pause * 2, 0.5)
                continue
            held, start, pause = held[wanted - start :], wanted, _FULL_PIPE

    def _post_stdin(self, offset: int, data: bytes, *, eof: bool) -> int:
        query = {"offset": offset, "eof": int(eof and not data)}
        answer = self._context.client().request(
            "POST", host_path("stdin", id=self._task), query=query, body=data
        )
        return int(answer["offset"])


def _read_input() -> bytes:
    """What comes next on standard input, empty at its end: a closed one is at its end, too."""
    while sys.stdin is not None:
        try:
            return os.read(0, MAX_STDIN)
        except BlockingIOError:  # whoever started us left it like that
            select.select([0], [], [])
        except OSError as error:
            output.say(f"standard input can't be read: {error.strerror}")
            break
    return b""


def _widen(pipe: int) -> None:
    """Let our input pile up while a piece of it is under way: fewer, larger pieces."""
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # no pipe, or the user has too many of them
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, MAX_STDIN)


VERBS = {
    "run": Verb(
        run,
        _options,
        takes_command=True,
        examples=(
            "hakuriver run -- python train.py --lr 0.1",
            "hakuriver run --cores 8 --memory 16G -- make -j8",
            "cat data.csv | hakuriver run -i -- sort",
        ),
    )
}
