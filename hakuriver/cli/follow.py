"""Following things as they change: the watch stream, logs, and what to do when the host is away for a while.

Whoever follows waits for the host for as long as it takes (Ctrl-C leaves) and says so after some seconds;
the very first contact fails at once.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hakuriver.api import Query
from hakuriver.cli.codes import OURS
from hakuriver.cli.context import Context
from hakuriver.cli.output import say
from hakuriver.endpoint import NoCluster
from hakuriver.errors import HakuRiverError, NotFound, Unreachable
from hakuriver.lifecycle import ENDED, State
from hakuriver.paths import HEADER_ENDED, HEADER_NOTE, HEADER_OFFSET, HEADER_SIZE, host_path

SILENCE = 30.0
"""Seconds without a line (the host says ``alive`` every few) after which a stream counts as dead."""
LONG_POLL = 20
CHUNK = 2**20
_SAY_AFTER = 3.0
_LONGEST_PAUSE = 5.0
_MOST_FILTERED = 1000


class Patience:
    """The back-off of one thing that is followed. ``patient``: forgive even the first contact."""

    def __init__(self, *, patient: bool = False, silent: bool = False) -> None:
        self._met = patient
        self._silent = silent
        self._since: float | None = None
        self._said = False
        self._pause = 0.1

    def lost(self, error: Unreachable) -> None:
        """Wait a little before the next try; raises ``error`` where waiting can't help."""
        if not self._met or isinstance(error, NoCluster):
            raise error
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > _SAY_AFTER and not self._said:
            self._said = True
            if not self._silent:
                say(f"{error.message}; waiting for it (Ctrl-C leaves)")
        time.sleep(self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def remark(self, note: str) -> None:
        """Something that is worth a line, if lines are wanted."""
        if note and not self._silent:
            say(note)

    def found(self) -> None:
        """It answers (again)."""
        if self._said and not self._silent:
            say("the host answers again")
        self._met, self._since, self._said, self._pause = True, None, False, 0.1


def changes(context: Context, ids: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
    """Lines of the watch stream, for ever: a snapshot, then every change; reconnects by cursor.

    With ``ids`` only lines of those tasks come, as far as they fit into an address.
    """
    cursor: str | None = None
    patience = Patience()
    wanted = ",".join(map(str, ids)) if ids and len(ids) <= _MOST_FILTERED else None
    while True:
        query: Query = {"since": cursor, "tasks": wanted}
        try:
            with context.client().open("GET", host_path("watch"), query=query, timeout=SILENCE) as response:
                while line := response.readline():
                    found: dict[str, Any] = json.loads(line)
                    patience.found()
                    cursor = found["cursor"]
                    yield found
            patience.lost(Unreachable("the host closed the stream"))
        except Unreachable as error:
            patience.lost(error)
        except ValueError:  # half a line: the host was killed while it wrote
            patience.lost(Unreachable("the host's stream broke off"))


def task_views(context: Context, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The tasks ``ids`` now, then again at each of their changes, for ever; raises NotFound."""
    wanted, seen = frozenset(ids), set[int]()
    for line in changes(context, ids):
        if line["type"] == "deleted" and line.get("id") in wanted:
            raise NotFound(f"task {line['id']} has been removed")
        found = line["tasks"] if line["type"] == "snapshot" else [line["task"]] if "task" in line else []
        for task in found:
            if task["id"] in wanted:
                seen.add(task["id"])
                yield task
        for each in sorted(wanted - seen):  # ended too long ago for a snapshot, or never there
            seen.add(each)
            yield context.client().request("GET", host_path("task", id=each))


class Feed:
    """An iterator of events pumped by a thread, so that waiting for the next can have a timeout."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()
        self._events = events
        threading.Thread(target=self._pump, daemon=True).start()

    def put(self, event: object) -> None:
        """Add an event of one's own."""
        self._queue.put(event)

    def next(self, timeout: float | None) -> Any:
        """The next event; raises queue.Empty after ``timeout`` seconds, or what the iterator raised."""
        event = self._queue.get(timeout=timeout)
        if isinstance(event, HakuRiverError):
            raise event
        return event

    def _pump(self) -> None:
        try:
            for event in self._events:
                self._queue.put(event)
        except HakuRiverError as error:
            self._queue.put(error)


class WaitedTooLong(Exception):
    """The deadline came first; ``args[0]`` are the ids that still live."""


def wait_ended(context: Context, ids: Sequence[int], timeout: float | None) -> list[dict[str, Any]]:
    """The tasks, in the order of ``ids``, once all have ended; raises WaitedTooLong or NotFound."""
    deadline = None if timeout is None else time.monotonic() + timeout
    feed = Feed(task_views(context, ids))
    ended: dict[int, dict[str, Any]] = {}
    while len(ended) < len(ids):
        try:
            task = feed.next(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise WaitedTooLong([each for each in ids if each not in ended]) from None
        if task["state"] in ENDED:
            ended[task["id"]] = task
    return [ended[each] for each in ids]


def code_of(task: dict[str, Any]) -> int:
    """The exit code that stands for a task's end: its own, 128+n for a signal, 125 for anything of ours."""
    if task["state"] == State.LOST:
        return OURS
    if task["exit_code"] is not None:
        return int(task["exit_code"])
    if task["signal"] is not None:
        return 128 + int(task["signal"])
    return 0 if task["state"] == State.COMPLETED else OURS


def code_of_all(tasks: Sequence[dict[str, Any]]) -> int:
    """Of several tasks the first failing one's."""
    return next((code for task in tasks if (code := code_of(task))), 0)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some bytes of a log; ``gap`` bytes before ``offset`` were dropped by the size cap."""

    offset: int
    data: bytes
    gap: int = 0


def log(
    context: Context,
    task: int,
    stream: str,
    *,
    follow: bool,
    tail: int | None = None,
    patience: Patience | None = None,
) -> Iterator[Chunk]:
    """A log from its start (or its last ``tail`` lines): to where it ends now, or as it grows to its end."""
    patience = patience or Patience()
    path = host_path("logs", id=task, stream=stream)
    offset: int | None = None if tail else 0
    goal: int | None = None
    noted = ""
    while True:
        query: Query = {
            "offset": offset,
            "tail": tail if offset is None else None,
            "limit": CHUNK,
            "wait": LONG_POLL if follow and offset is not None else None,
        }
        try:
            with context.client().open("GET", path, query=query, timeout=LONG_POLL + 15) as response:
                data = response.read()
                first = int(response.headers.get(HEADER_OFFSET, 0))
                size = int(response.headers.get(HEADER_SIZE, 0))
                ended = response.headers.get(HEADER_ENDED) == "1"
                note = response.headers.get(HEADER_NOTE, "")
        except Unreachable as error:
            if not follow:
                raise
            patience.lost(error)
            continue
        patience.found()
        if note != noted:
            noted = note
            patience.remark(note)
        goal = size if goal is None else goal
        if data:
            yield Chunk(first, data, gap=max(0, first - offset) if offset is not None else 0)
        offset = max(first + len(data), offset or 0)
        if (ended and offset >= size) or (not follow and (offset >= goal or not data)):
            return
