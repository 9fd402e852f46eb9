"""What the host's loops keep in memory: the queue, and who holds what on which node.

Derived from the store's changes, in commit order, and from nothing else; made anew at every start.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from daemons.host.rows import TaskRow
from daemons.host.scheduler import QUEUED, Shape
from hakuriver.lifecycle import ON_NODE, State

Key = tuple[int, int]
_ON_NODE = frozenset(str(state) for state in ON_NODE)


@dataclass(slots=True)
class _Waiting:
    shape: Shape
    owner: str
    resting: bool = False


class Queue:
    """Pending tasks: by shape, each in ascending order of id, and how many each owner has."""

    def __init__(self) -> None:
        self.lanes: dict[Shape, OrderedDict[int, None]] = {}
        self.reasons: dict[int, str] = {}
        """Reasons other than QUEUED that are stored now."""
        self.owners: Counter[str] = Counter()
        self._waiting: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, task: int) -> bool:
        return task in self._waiting

    def add(self, row: TaskRow) -> bool:
        """Queue a task, or take note of its reason; returns whether it is new here."""
        if row.reason == QUEUED:
            self.reasons.pop(row.id, None)
        else:
            self.reasons[row.id] = row.reason
        if row.id in self._waiting:
            return False
        shape = Shape(
            row.target_node,
            row.target_numa,
            tuple(json.loads(row.target_gpus)),
            row.cores,
            row.memory,
            row.executor,
        )
        self._enter(row.id, shape)
        self._waiting[row.id] = _Waiting(shape, row.owner)
        self.owners[row.owner] += 1
        return True

    def rest(self, task: int) -> None:
        """Keep a task out of the passes until ``rested``; its reason stays."""
        found = self._waiting.get(task)
        if found is not None and not found.resting:
            found.resting = True
            self._leave(task, found.shape)

    def rested(self, task: int) -> None:
        """Let a task that rested take part again, if it still waits."""
        found = self._waiting.get(task)
        if found is not None and found.resting:
            found.resting = False
            self._enter(task, found.shape)

    def is_resting(self, task: int) -> bool:
        """Whether a task waits without taking part."""
        found = self._waiting.get(task)
        return found is not None and found.resting

    def remove(self, task: int) -> bool:
        """Forget a task that waits no longer; returns whether it was here."""
        self.reasons.pop(task, None)
        found = self._waiting.pop(task, None)
        if found is None:
            return False
        if not found.resting:
            self._leave(task, found.shape)
        self.owners[found.owner] -= 1
        if not self.owners[found.owner]:
            del self.owners[found.owner]
        return True

    def _enter(self, task: int, shape: Shape) -> None:
        lane = self.lanes.setdefault(shape, OrderedDict())
        older = bool(lane) and task < next(reversed(lane))
        lane[task] = None
        if older:  # a task that comes back; rare enough to sort
            self.lanes[shape] = OrderedDict.fromkeys(sorted(lane))

    def _leave(self, task: int, shape: Shape) -> None:
        lane = self.lanes[shape]
        del lane[task]
        if not lane:
            del self.lanes[shape]


@dataclass(frozen=True, slots=True)
class Holding:
    """What the current attempt of a task holds on its node."""

    attempt: int
    node: str
    cores: int
    memory: int
    devices: tuple[str, ...]


@dataclass(slots=True)
class Used:
    """What is allocated on one node."""

    cores: int = 0
    memory: int = 0
    devices: dict[str, int] = field(default_factory=dict)  # device → task
    tasks: dict[int, int] = field(default_factory=dict)  # task → attempt


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change did: to the free room of ``nodes``, whether a pass may now end otherwise, and whether
    a task that had a place waits again."""

    nodes: frozenset[str]
    placeable: bool
    came_back: bool = False


class Ledger:
    """The queue, the holdings, and at which journal version each live attempt's order was acknowledged."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.acked: dict[Key, int] = {}
        self._holdings: dict[int, Holding] = {}
        self._used: dict[str, Used] = {}

    def used(self, node: str) -> Used:
        """What is allocated on a node; to be read only."""
        return self._used.get(node) or Used()

    @property
    def held(self) -> int:
        """How many attempts hold something."""
        return len(self._holdings)

    def acknowledged(self, key: Key, version: int) -> None:
        """A runner has an order in its journal, at or before that version."""
        holding = self._holdings.get(key[0])
        if holding is not None and holding.attempt == key[1]:
            self.acked[key] = version

    def apply(self, row: TaskRow) -> Effect:
        """Take a committed change in."""
        if row.state == State.PENDING:
            placeable = self.queue.add(row)
        else:
            placeable = self.queue.remove(row.id) and row.state != State.ASSIGNED
        before = self._holdings.get(row.id)
        after = _holding(row)
        if row.acked is not None and after is not None:
            self.acked[row.key] = row.acked
        if before == after:
            return Effect(frozenset(), placeable)
        if before is not None:
            self._release(row.id, before)
        if after is not None:
            self._hold(row.id, after)
        nodes = frozenset(each.node for each in (before, after) if each is not None)
        return Effect(nodes, placeable or before is not None, before is not None and row.id in self.queue)

    def _hold(self, task: int, holding: Holding) -> None:
        self._holdings[task] = holding
        used = self._used.setdefault(holding.node, Used())
        used.cores += holding.cores
        used.memory += holding.memory
        used.devices.update(dict.fromkeys(holding.devices, task))
        used.tasks[task] = holding.attempt

    def _release(self, task: int, holding: Holding) -> None:
        del self._holdings[task]
        self.acked.pop((task, holding.attempt), None)
        used = self._used[holding.node]
        used.cores -= holding.cores
        used.memory -= holding.memory
        for device in holding.devices:
            used.devices.pop(device, None)
        used.tasks.pop(task, None)


def _holding(row: TaskRow) -> Holding | None:
    if row.state not in _ON_NODE or row.node is None:
        return None
    return Holding(row.attempt, row.node, row.cores, row.memory, tuple(json.loads(row.devices or "[]")))
