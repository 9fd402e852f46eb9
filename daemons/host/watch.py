"""The watch stream: every committed change to every client, in order, without a client ever polling.

One ring of ready-made lines serves all clients; each only remembers how far it has come. A client that comes
back inside the ring gets what it missed, any other a snapshot. A client that is too slow for what happens
meanwhile is not served from an ever longer queue: it gets a snapshot as well.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, select, union_all

from daemons.host.rows import TASK_VIEWS, newest_of
from daemons.host.schema import meta, task
from daemons.host.store import Change, Identity, NodeChange, NodeGone, Store, TaskChange
from hakuriver.errors import UsageError
from hakuriver.lifecycle import ENDED, LIVE
from hakuriver.views import ClusterView, EnvironmentView, NodeView

RING = 10_000
ENDED_SHOWN = 1000
QUEUE_BYTES = 2**20
ALIVE_SECONDS = 3.0
_PIECE = 64 * 1024
_FLUSH_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _Entry:
    """A change with its line; ``total`` is how many bytes were published up to and with it."""

    sequence: int
    task: int | None
    line: bytes
    total: int


@dataclass(frozen=True, slots=True)
class _Snapshot:
    sequence: int
    pieces: Sequence[bytes]


class Hub:
    """Told of every commit (``publish``); gives each client its stream (``stream``)."""

    def __init__(
        self,
        store: Store,
        node_view: Callable[[str], NodeView],
        node_names: Callable[[], list[str]],
        environments: Callable[[], list[EnvironmentView]] = list,
        *,
        ring: int = RING,
        alive: float = ALIVE_SECONDS,
    ) -> None:
        self._store = store
        self._identity: Identity = store.identity
        self._node_view = node_view
        self._node_names = node_names
        self._environments = environments
        self._environments_now: tuple[int, bytes] = (1, b"")  # (version, JSON)
        self._environments_dirty = True
        self._alive = alive
        self._ring: deque[_Entry] = deque(maxlen=ring)
        self._total = 0
        self._nodes: dict[str, tuple[int, bytes]] = {}  # name → (version, JSON)
        self._version = 1
        self._dirty: set[str] = set()
        self._flush: asyncio.TimerHandle | None = None
        self._building: asyncio.Task[_Snapshot] | None = None
        self._waiting: set[asyncio.Event] = set()
        self._listeners: dict[int, set[asyncio.Event]] = {}
        self._closed = False

    @property
    def cursor(self) -> str:
        """Where the stream stands now."""
        return self._identity.cursor(self._store.published)

    @property
    def clients(self) -> int:
        """How many streams are open."""
        return len(self._waiting)

    def publish(self, changes: Sequence[Change]) -> None:
        """Committed changes, in order; memory is up to date with them."""
        for change in changes:
            if isinstance(change, NodeGone):
                self._nodes.pop(change.name, None)
                self._append(change.sequence, None, change.line)
                continue
            if not isinstance(change, NodeChange):
                number = change.row.id if isinstance(change, TaskChange) else change.task
                self._append(change.sequence, number, change.line)
                for event in self._listeners.get(number, ()):
                    event.set()
                continue
            cursor = self._identity.cursor(change.sequence)
            text = self._json(change.row.name)
            self._nodes[change.row.name] = (self._nodes.get(change.row.name, (1, b""))[0], text)
            self._append(change.sequence, None, _node_line(cursor, text))
        self._wake()

    def touch(self, name: str) -> None:
        """What is measured or free on a node changed: shown soon, without a number of its own."""
        self._dirty.add(name)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush_nodes)

    def touch_environments(self) -> None:
        """Something about environments changed: all of them are shown anew, soon."""
        self._environments_dirty = True
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush_nodes)

    @contextmanager
    def listen(self, task: int) -> Iterator[asyncio.Event]:
        """An event that is set at each change of a task, for those who wait for it inside the host."""
        event = asyncio.Event()
        self._listeners.setdefault(task, set()).add(event)
        try:
            yield event
        finally:
            self._listeners[task].discard(event)
            if not self._listeners[task]:
                del self._listeners[task]

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._wake()

    async def stream(
        self, cluster: Callable[[str], ClusterView], since: str | None, tasks: frozenset[int] | None
    ) -> AsyncIterator[bytes]:
        """Lines for one client, for ever; ``cluster`` makes the view that a snapshot begins with."""
        wake = asyncio.Event()
        self._waiting.add(wake)
        try:
            position = self._resume(since)
            versions = 0
            snapshot_due = position is None
            while not self._closed:
                if snapshot_due or position is None or position < self._oldest():
                    snapshot = await self._snapshot(tasks)
                    head = self._head(snapshot.sequence, cluster, whole=tasks is None)
                    versions = self._version
                    for piece in (head, *snapshot.pieces, b"]}\n"):
                        yield piece
                    position, snapshot_due = snapshot.sequence, False
                    continue
                wake.clear()
                before = self._total
                position, lines = self._news(position, versions if tasks is None else None, tasks)
                versions = self._version
                if lines:
                    for piece in _pieces(lines):
                        yield piece
                    snapshot_due = self._total - before > QUEUE_BYTES
                    continue
                try:
                    async with asyncio.timeout(self._alive):
                        await wake.wait()
                except TimeoutError:
                    cursor = self._identity.cursor(max(position, self._store.published))
                    yield f'{{"type":"alive","cursor":"{cursor}"}}\n'.encode()
        finally:
            self._waiting.discard(wake)

    # Lines

    def _news(
        self, position: int, versions: int | None, tasks: frozenset[int] | None
    ) -> tuple[int, list[bytes]]:
        """What happened after a position, and how far that reaches."""
        reached = max(position, self._store.published)  # a snapshot may be ahead of what was published
        newest = islice(reversed(self._ring), reached - position)
        lines = [entry.line for entry in newest if tasks is None or entry.task in tasks][::-1]
        if versions is not None and self._version > versions:
            cursor = self._identity.cursor(reached)
            lines.extend(
                _node_line(cursor, text) for version, text in self._nodes.values() if version > versions
            )
            text = self._refresh_environments()
            if self._environments_now[0] > versions:
                lines.append(_environments_line(cursor, text))
        return reached, lines

    def _append(self, sequence: int, number: int | None, line: bytes) -> None:
        self._total += len(line)
        self._ring.append(_Entry(sequence, number, line, self._total))

    def _refresh(self, name: str) -> tuple[int, bytes]:
        """A node's JSON as it is now; it counts as new only if it differs."""
        text = self._json(name)
        known = self._nodes.get(name)
        if known is None or known[1] != text:
            self._version += 1
            known = self._nodes[name] = (self._version, text)
        return known

    def _refresh_environments(self) -> bytes:
        """All environments as JSON; it counts as new only if it differs."""
        if self._environments_dirty:
            self._environments_dirty = False
            text = _compact(self._environments())
            if text != self._environments_now[1]:
                self._version += 1
                self._environments_now = self._version, text
        return self._environments_now[1]

    def _json(self, name: str) -> bytes:
        return _compact(self._node_view(name))

    def _flush_nodes(self) -> None:
        self._flush = None
        names = set(self._node_names())
        for name in sorted(self._dirty & names):
            self._refresh(name)
        self._dirty.clear()
        self._refresh_environments()
        self._wake()

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    # Where a client starts

    def _oldest(self) -> int:
        """The oldest position from which the ring can go on."""
        return self._ring[0].sequence - 1 if self._ring else self._store.published

    def _resume(self, since: str | None) -> int | None:
        """The position of a cursor, None when it needs a snapshot; raises UsageError for what is none."""
        if not since:
            return None
        position = parse_cursor(since, self._identity.epoch)
        if position is None or not self._oldest() <= position <= self._store.published:
            return None
        return position

    async def _snapshot(self, tasks: frozenset[int] | None) -> _Snapshot:
        """Built in a reader thread; clients that ask at the same time share one."""
        if tasks is not None:
            return await self._store.read(lambda connection: _read_snapshot(connection, tasks))
        if self._building is None:
            self._building = asyncio.create_task(self._build())
        return await asyncio.shield(self._building)

    async def _build(self) -> _Snapshot:
        try:
            return await self._store.read(lambda connection: _read_snapshot(connection, None))
        finally:
            self._building = None

    def _head(self, sequence: int, cluster: Callable[[str], ClusterView], *, whole: bool) -> bytes:
        """A snapshot's line up to its tasks; nodes and environments only where it is of the whole cluster."""
        cursor = self._identity.cursor(sequence)
        head = {"type": "snapshot", "cursor": cursor, "cluster": cluster(cursor)}
        nodes = b",".join(self._refresh(name)[1] for name in (self._node_names() if whole else ()))
        environments = self._refresh_environments() if whole else b"[]"
        start = _compact(head)[:-1] + b',"environments":' + environments
        return start + b',"nodes":[' + nodes + b'],"tasks":['


def parse_cursor(text: str, epoch: int) -> int | None:
    """The sequence number of a cursor, None for one of another epoch; raises UsageError."""
    left, dash, right = text.partition("-")
    if (
        not dash
        or not (left + right).isascii()
        or not left.isdigit()
        or not right.isdigit()
        or len(text) > 40
    ):
        raise UsageError(f"cursor {text!r} can't be understood", hint="leave it out to start with a snapshot")
    return int(right) if int(left) == epoch else None


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _node_line(cursor: str, text: bytes) -> bytes:
    return f'{{"type":"node","cursor":"{cursor}","node":'.encode() + text + b"}\n"


def _environments_line(cursor: str, text: bytes) -> bytes:
    return f'{{"type":"environments","cursor":"{cursor}","environments":'.encode() + text + b"}\n"


def _pieces(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Lines joined to pieces that a slow client takes one at a time."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size > _PIECE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _read_snapshot(connection: Connection, tasks: frozenset[int] | None) -> _Snapshot:
    """Live tasks and the newest ended, or just some tasks; newest first, on one state of the database."""
    sequence = int(connection.execute(select(meta.c.value).where(meta.c.key == "sequence")).scalar_one())
    pieces: list[bytes] = []
    held: list[str] = []
    size = 0
    for view in connection.execute(_snapshot_query(tasks)).scalars():
        held.append(view)
        size += len(view)
        if size > _PIECE:
            pieces.append((("," if pieces else "") + ",".join(held)).encode())
            held, size = [], 0
    if held:
        pieces.append((("," if pieces else "") + ",".join(held)).encode())
    return _Snapshot(sequence, pieces)


def _snapshot_query(tasks: frozenset[int] | None) -> Select[Any]:
    if tasks is not None:
        return TASK_VIEWS.where(task.c.id.in_(sorted(tasks))).order_by(task.c.id.desc())
    newest = select(newest_of([str(state) for state in ENDED], ENDED_SHOWN).c.id)
    live = select(task.c.id).where(task.c.state.in_([str(state) for state in LIVE]))
    return TASK_VIEWS.where(task.c.id.in_(union_all(live, newest))).order_by(task.c.id.desc())
