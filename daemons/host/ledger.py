"""What the host's loops keep in memory: the queue, and who holds what on which node.

Derived from the store's changes, in commit order, and from nothing else; made anew at every start.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from daemons.host.lanes import holding_of, lane_of
from daemons.host.rows import TaskRow
from daemons.host.scheduling.model import QUEUED, Holding, Lane, Use
from hakuriver.lifecycle import State

Key = tuple[int, int]


@dataclass(slots=True)
class _Waiting:
    """``resting``: for a while. ``kept``: held by somebody, or waits for other tasks."""

    lane: Lane
    resting: bool = False
    kept: bool = False

    @property
    def takes_part(self) -> bool:
        return not self.resting and not self.kept


class Queue:
    """Pending tasks: by lane, each in ascending order of id, and how many each owner has."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, OrderedDict[int, None]] = {}
        self._mixed: set[Lane] = set()  # lanes that tasks came back to: out of order until somebody looks
        self.reasons: dict[int, str] = {}
        """Reasons other than QUEUED that are stored now."""
        self.owners: Counter[str] = Counter()
        self.needy: set[int] = set()
        """Tasks that wait for others."""
        self._waiting: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, task: int) -> bool:
        return task in self._waiting

    @property
    def lanes(self) -> Mapping[Lane, Collection[int]]:
        """The tasks that passes look at, each lane in ascending order of id; to be read only."""
        for lane in self._mixed:
            self._lanes[lane] = OrderedDict.fromkeys(sorted(self._lanes[lane]))
        self._mixed.clear()
        return self._lanes

    def add(self, row: TaskRow) -> bool:
        """Queue a task, or note what changed about it; returns whether a pass may now end otherwise."""
        if row.reason == QUEUED:
            self.reasons.pop(row.id, None)
        else:
            self.reasons[row.id] = row.reason
        kept = row.hold_by is not None or row.needs > 0
        (self.needy.add if row.needs else self.needy.discard)(row.id)
        found = self._waiting.get(row.id)
        if found is None:
            found = self._waiting[row.id] = _Waiting(lane_of(row), kept=kept)
            self.owners[row.owner] += 1
            if not kept:
                self._enter(row.id, found.lane)
            return True
        before, found.kept = found.takes_part, kept
        return self._moved(row.id, found, before)

    def rest(self, task: int) -> None:
        """Keep a task out of the passes until ``rested``; its reason stays."""
        self._set_resting(task, resting=True)

    def rested(self, task: int) -> None:
        """Let a task that rested take part again, if it still waits."""
        self._set_resting(task, resting=False)

    def _set_resting(self, task: int, *, resting: bool) -> None:
        found = self._waiting.get(task)
        if found is not None:
            before, found.resting = found.takes_part, resting
            self._moved(task, found, before)

    def _moved(self, task: int, found: _Waiting, before: bool) -> bool:
        if before == found.takes_part:
            return False
        if before:
            self._leave(task, found.lane)
        else:
            self._enter(task, found.lane)
        return True

    def takes_part(self, task: int) -> bool:
        """Whether passes look at a task."""
        found = self._waiting.get(task)
        return found is not None and found.takes_part

    def lane(self, task: int) -> Lane | None:
        """What a waiting task asks for."""
        found = self._waiting.get(task)
        return None if found is None else found.lane

    def ahead(self, task: int) -> int:
        """How many waiting tasks come before one."""
        found = self._waiting.get(task)
        if found is None:
            return 0
        mine = (-found.lane.priority, task)
        return sum(
            (-lane.priority, other) < mine
            for lane, others in self._lanes.items()
            if lane.priority >= found.lane.priority
            for other in others
        )

    def remove(self, task: int) -> bool:
        """Forget a task that waits no longer; returns whether it was here."""
        self.reasons.pop(task, None)
        self.needy.discard(task)
        found = self._waiting.pop(task, None)
        if found is None:
            return False
        if found.takes_part:
            self._leave(task, found.lane)
        owner = found.lane.owner
        self.owners[owner] -= 1
        if not self.owners[owner]:
            del self.owners[owner]
        return True

    def _enter(self, task: int, lane: Lane) -> None:
        ids = self._lanes.setdefault(lane, OrderedDict())
        if ids and task < next(reversed(ids)):  # thousands may come back at once: they are sorted once
            self._mixed.add(lane)
        ids[task] = None

    def _leave(self, task: int, lane: Lane) -> None:
        ids = self._lanes[lane]
        del ids[task]
        if not ids:
            del self._lanes[lane]
            self._mixed.discard(lane)


@dataclass(slots=True)
class Used:
    """What is allocated on one node; ``numa`` by tasks that are bound to one: cores and memory."""

    cores: int = 0
    memory: int = 0
    numa: dict[int, tuple[int, int]] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)  # device → task
    holdings: dict[int, Holding] = field(default_factory=dict)  # task → what it holds

    @property
    def tasks(self) -> Mapping[int, int]:
        """Task → attempt."""
        return {task: holding.attempt for task, holding in self.holdings.items()}

    def change(self, task: int, holding: Holding, sign: int) -> None:
        """Take a holding in (+1) or out (-1)."""
        self.cores += sign * holding.cores
        self.memory += sign * holding.memory
        if holding.numa is not None:
            cores, memory = self.numa.get(holding.numa, (0, 0))
            self.numa[holding.numa] = (cores + sign * holding.cores, memory + sign * holding.memory)
        if sign > 0:
            self.devices.update(dict.fromkeys(holding.devices, task))
            self.holdings[task] = holding
        else:
            for device in holding.devices:
                self.devices.pop(device, None)
            self.holdings.pop(task, None)


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
        self.owners: dict[str, Use] = {}
        """What each owner has now."""
        self.batches: Counter[int] = Counter()
        """How many of each batch hold something."""
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
        after = holding_of(row, time.time())
        if row.acked is not None and after is not None:
            self.acked[row.key] = row.acked
        if before == after:
            if after is not None and before is not None and before.ends_at != after.ends_at:
                self._holdings[row.id] = self._used[after.node].holdings[row.id] = after
                return Effect(frozenset(), True)
            return Effect(frozenset(), placeable)
        if before is not None:
            self._change(row.id, before, -1)
        if after is not None:
            self._change(row.id, after, 1)
        nodes = frozenset(each.node for each in (before, after) if each is not None)
        return Effect(nodes, placeable or before is not None, before is not None and row.id in self.queue)

    def _change(self, task: int, holding: Holding, sign: int) -> None:
        self._used.setdefault(holding.node, Used()).change(task, holding, sign)
        if sign > 0:
            self._holdings[task] = holding
        else:
            del self._holdings[task]
            self.acked.pop((task, holding.attempt), None)
        before = self.owners.get(holding.owner, Use())
        now = Use(
            before.tasks + sign,
            before.cores + sign * holding.cores,
            before.gpus + sign * len(holding.devices),
        )
        self.owners[holding.owner] = now
        if not now.tasks:
            del self.owners[holding.owner]
        if holding.batch is not None:
            self.batches[holding.batch] += sign
            if not self.batches[holding.batch]:
                del self.batches[holding.batch]
