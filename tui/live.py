"""The cluster as its host last described it: a keyed mirror, and the feed that keeps it so.

The mirror needs neither Textual nor a network; the feed needs anything that yields watch lines.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol, cast

from hakuriver.errors import HakuRiverError, Unreachable
from hakuriver.views import ClusterView, EnvironmentView, NodeView, TaskView
from tui.facts import held
from tui.watch_lines import BadLine

NOTIFY_INTERVAL = 0.25
"""Seconds between two notifications, at least."""
RETRY_DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0)
SILENCE = 20.0
"""Seconds without a line (the host sends ``alive`` every few) after which the connection counts as lost."""


class Link(StrEnum):
    """How the connection to the host stands."""

    CONNECTING = "connecting"
    LIVE = "live"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Status:
    """``since`` and ``retry_at`` on the monotonic clock; ``ever_live``: the mirror holds something."""

    link: Link
    since: float
    ever_live: bool = False
    retry_at: float | None = None
    error: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """Which keys are new, different or gone; ``reset``: anything may be; ``link``: the connection's state."""

    nodes: frozenset[str] = frozenset()
    tasks: frozenset[int] = frozenset()
    environments: frozenset[str] = frozenset()
    reset: bool = False
    link: bool = False

    def __or__(self, other: Changes) -> Changes:
        return Changes(
            self.nodes | other.nodes,
            self.tasks | other.tasks,
            self.environments | other.environments,
            self.reset or other.reset,
            self.link or other.link,
        )


@dataclass(frozen=True)
class Snapshot:
    """A snapshot line, put in order. Making one of a large line takes a while, so a thread may do it."""

    cursor: str
    cluster: ClusterView | None
    nodes: dict[str, NodeView]
    tasks: dict[int, TaskView]
    environments: dict[str, EnvironmentView]
    task_states: Counter[str]
    held: set[int]

    @staticmethod
    def of(line: dict[str, Any]) -> Snapshot:
        """Raises BadLine."""
        try:
            tasks = {int(task["id"]): task for task in line["tasks"]}
            return Snapshot(
                cursor=str(line["cursor"]),
                cluster=cast(ClusterView, line["cluster"]) if line.get("cluster") else None,
                nodes={str(node["name"]): node for node in line["nodes"]},
                tasks=tasks,
                environments=_by_name(line.get("environments", [])),
                task_states=Counter(task["state"] for task in tasks.values()),
                held={key for key, task in tasks.items() if held(task)},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _not_understood(error) from error


def _by_name(views: list[EnvironmentView]) -> dict[str, EnvironmentView]:
    return {str(each["name"]): each for each in views}


def _not_understood(error: Exception) -> BadLine:
    return BadLine(f"the host's stream holds a line that can't be understood: {error!r}")


class Mirror:
    """Nodes and environments by name, tasks by id. ``apply`` is the only thing that changes them.

    ``held``: the tasks with a kill that can still be taken back.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, NodeView] = {}
        self.tasks: dict[int, TaskView] = {}
        self.environments: dict[str, EnvironmentView] = {}
        self.task_states: Counter[str] = Counter()
        self.held: set[int] = set()
        self.cluster: ClusterView | None = None
        self.cursor: str | None = None
        self.status = Status(Link.CONNECTING, time.monotonic())

    def apply(self, line: object) -> Changes:
        """Take in one watch line; kinds of line that we don't know are skipped. Raises BadLine."""
        if isinstance(line, Snapshot):
            return self._replace(line)
        if not isinstance(line, dict):
            raise BadLine("the host's stream holds something that is no object")
        try:
            changes = self._apply(line)
            self.cursor = str(line["cursor"])
        except (KeyError, TypeError, AttributeError) as error:
            raise _not_understood(error) from error
        return changes

    def _replace(self, by: Snapshot) -> Changes:
        self.cluster = by.cluster or self.cluster
        self.cursor, self.nodes, self.tasks = by.cursor, by.nodes, by.tasks
        self.environments = by.environments
        self.task_states, self.held = by.task_states, by.held
        return Changes(reset=True)

    def _apply(self, line: dict[str, Any]) -> Changes:
        kind = line["type"]
        if kind == "snapshot":
            return self._replace(Snapshot.of(line))
        if kind == "task":
            return self._put_task(line["task"])
        if kind == "node":
            self.nodes[line["node"]["name"]] = line["node"]
            return Changes(nodes=frozenset({line["node"]["name"]}))
        if kind == "environments":
            return self._put_environments(_by_name(line["environments"]))
        if kind == "deleted":
            return self._delete(line)
        return Changes()

    def _put_task(self, task: TaskView) -> Changes:
        key, state = task["id"], task["state"]
        old = self.tasks.get(key)
        if old is not None:
            self.task_states[old["state"]] -= 1
        self.task_states[state] += 1
        self.tasks[key] = task
        (self.held.add if held(task) else self.held.discard)(key)
        return Changes(tasks=frozenset({key}))

    def _put_environments(self, new: dict[str, EnvironmentView]) -> Changes:
        """The line has all of them; changed are those that differ."""
        old, self.environments = self.environments, new
        differ = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
        return Changes(environments=frozenset(differ))

    def _delete(self, line: dict[str, Any]) -> Changes:
        if "id" in line:
            gone = self.tasks.pop(line["id"], None)
            self.held.discard(line["id"])
            if gone is not None:
                self.task_states[gone["state"]] -= 1
            return Changes(tasks=frozenset({line["id"]}))
        self.nodes.pop(line["name"], None)
        return Changes(nodes=frozenset({line["name"]}))


class Source(Protocol):
    """Where watch lines come from."""

    def watch(self, cursor: str | None) -> AsyncGenerator[object, None]: ...


class Coalescer:
    """Many changes, few notifications: the first at once, then at most one every ``interval`` seconds."""

    def __init__(self, notify: Callable[[Changes], None], interval: float = NOTIFY_INTERVAL) -> None:
        self._notify = notify
        self._interval = interval
        self._waiting = Changes()
        self._last = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def add(self, changes: Changes) -> None:
        if changes == Changes():
            return
        self._waiting |= changes
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, self._last + self._interval - loop.time()), self._flush)

    def _flush(self) -> None:
        self._timer = None
        self._last = asyncio.get_running_loop().time()
        changes, self._waiting = self._waiting, Changes()
        self._notify(changes)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Feed:
    """Keeps a mirror equal to the host's state, for ever: reads, and after a loss tries again by cursor."""

    def __init__(
        self,
        mirror: Mirror,
        source: Source,
        notify: Callable[[Changes], None],
        *,
        interval: float = NOTIFY_INTERVAL,
        delays: tuple[float, ...] = RETRY_DELAYS,
        silence: float = SILENCE,
    ) -> None:
        self._mirror = mirror
        self._source = source
        self._changes = Coalescer(notify, interval)
        self._delays = delays
        self._silence = silence
        self._retry = asyncio.Event()

    def retry_now(self) -> None:
        """Don't wait for the rest of the back-off."""
        self._retry.set()

    async def run(self) -> None:
        failures = 0
        try:
            while True:
                error = await self._read()
                if self._mirror.status.link is Link.LIVE:
                    failures = 0
                delay = self._delays[min(failures, len(self._delays) - 1)]
                failures += 1
                self._lost(error, delay)
                await self._pause(delay)
        finally:
            self._changes.close()

    async def _read(self) -> HakuRiverError:
        """Read one connection to its end; returns what ended it."""
        try:
            async with aclosing(self._source.watch(self._mirror.cursor)) as lines:
                while True:
                    async with asyncio.timeout(self._silence):
                        line = await anext(lines)
                    self._take(line)
        except StopAsyncIteration:
            return Unreachable("the host ended the stream")
        except TimeoutError:
            return Unreachable(f"the host has said nothing for {self._silence:.0f} s")
        except BadLine as error:
            self._mirror.cursor = None  # whatever it was, a snapshot puts it right
            return error
        except HakuRiverError as error:
            return error

    def _take(self, line: object) -> None:
        changes = self._mirror.apply(line)
        if self._mirror.status.link is not Link.LIVE:
            self._mirror.status = Status(Link.LIVE, time.monotonic(), ever_live=True)
            changes |= Changes(link=True)
        self._changes.add(changes)

    def _lost(self, error: HakuRiverError, delay: float) -> None:
        status, now = self._mirror.status, time.monotonic()
        since = status.since if status.link is Link.LOST else now
        self._mirror.status = replace(
            status, link=Link.LOST, since=since, retry_at=now + delay, error=error.message, hint=error.hint
        )
        self._changes.add(Changes(link=True))

    async def _pause(self, delay: float) -> None:
        self._retry.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._retry.wait()
