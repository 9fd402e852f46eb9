"""One pass over the queue: what starts where, what waits and why, and which room is kept for whom.

Higher priority first, then first in, first out. The first task that finds no room gets a reservation: on
one node, younger tasks may only take what it won't need, or what they give back before it can start. Each
further task that could use nodes which no earlier reservation speaks for gets one, too; so a task that is
bound to one node holds up that node alone. What fits outside the reservations never waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from daemons.host.scheduling.model import (
    Caps,
    Cluster,
    Device,
    Holding,
    Lane,
    Placement,
    Plan,
    Reservation,
    Room,
    Shape,
    Use,
)
from daemons.host.scheduling.stock import Stock, executor_of, matching, named_devices
from daemons.host.scheduling.words import closed_for, cores, could_ever, many, never, reason
from hakuriver.units import format_cores

PASS_LIMIT = 256
MOST_REASONS = 32
"""Reasons that a pass gives before it leaves tasks without a reservation at ``QUEUED``."""

Known = dict[Shape, tuple[str, ...]]
"""Which nodes could ever take a shape; true as long as the nodes stay what they are."""


@dataclass(slots=True)
class Node:
    """A node while a pass fills it. ``spare`` is what may be given away for longer than until ``at``."""

    room: Room
    stock: Stock
    placed: list[Holding] = field(default_factory=list)
    spare: Stock | None = None
    at: float | None = None
    kept_for: int = 0

    def offer(self, shape: Shape, now: float) -> tuple[Device, ...] | None:
        """The devices that a shape would get here, in nobody's way; None when it has to wait."""
        if closed_for(shape, self.room):
            return None
        chosen = self.stock.fits(shape, self.room)
        if chosen is None or self.spare is None or self._gone_in_time(shape, now):
            return chosen
        return self.stock.within(self.spare).fits(shape, self.room)

    def _gone_in_time(self, shape: Shape, now: float) -> bool:
        return self.at is not None and shape.limit is not None and now + shape.limit <= self.at

    def take(self, shape: Shape, devices: Sequence[Device], now: float) -> None:
        """Give a shape its place."""
        ids = tuple(device.id for device in devices)
        self.stock.take(shape.cores, shape.memory, shape.numa, ids)
        if self.spare is not None and not self._gone_in_time(shape, now):
            self.spare.take(shape.cores, shape.memory, shape.numa, ids)
        ends_at = None if shape.limit is None else now + shape.limit
        self.placed.append(
            Holding(0, self.room.name, shape.cores, shape.memory, ids, shape.numa, ends_at=ends_at)
        )

    @property
    def tasks(self) -> int:
        return len(self.room.holdings) + len(self.placed)

    def enough_at(self, shape: Shape, now: float) -> tuple[float | None, Stock]:
        """When there will be room for a shape, and what is free then; None when that can't be known."""
        usable = frozenset(device.id for device in self.room.devices if not device.lost)
        later = self.stock.copy()
        for ends_at, holding in _endings([*self.room.holdings.values(), *self.placed]):
            later.give_back(holding, usable)
            if later.fits(shape, self.room) is not None:
                return max(now, ends_at), later
        return None, self.stock

    def keep(self, shape: Shape, now: float) -> float | None:
        """Reserve room for a shape; returns when it will be enough, None when that can't be known."""
        self.at, later = self.enough_at(shape, now)
        self.spare = later.copy()
        if self.at is not None:
            devices: Iterable[Device] = later.fits(shape, self.room) or ()
        else:
            wanted = named_devices(shape, self.room) or matching(shape, self.room)
            free = [device for device in wanted if device.id in later.devices]
            devices = free[: shape.count] if shape.count else free if shape.gpus else ()
        self.spare.take(shape.cores, shape.memory, shape.numa, [device.id for device in devices])
        return self.at


def _endings(holdings: Iterable[Holding]) -> Iterator[tuple[float, Holding]]:
    known = [(each.ends_at, number, each) for number, each in enumerate(holdings) if each.ends_at is not None]
    return ((ends_at, each) for ends_at, _, each in sorted(known, key=lambda entry: entry[:2]))


def place(
    queue: Mapping[Lane, Iterable[int]],
    cluster: Cluster,
    known: Known | None = None,
    limit: int = PASS_LIMIT,
) -> Plan:
    """Place waiting tasks; ``queue`` has the ids of each lane in ascending order."""
    return _Pass(queue, cluster, {} if known is None else known).run(limit)


class _Pass:
    def __init__(self, queue: Mapping[Lane, Iterable[int]], cluster: Cluster, known: Known) -> None:
        self._cluster = cluster
        self._known = known
        self._nodes = {room.name: Node(room, Stock.of(room)) for room in cluster.rooms}
        self._owners = dict(cluster.owners)
        self._batches = dict(cluster.batches)
        self._turn = cluster.turn
        self._spoken_for: set[str] = set()
        self._placements: list[Placement] = []
        self._reservations: list[Reservation] = []
        self._reasons: dict[int, str] = {}
        self._lanes = [(lane, iter(ids)) for lane, ids in queue.items()]
        self._heads = [
            (-lane.priority, first, number)
            for number, (lane, ids) in enumerate(self._lanes)
            for first in [next(ids, None)]
            if first is not None
        ]
        heapq.heapify(self._heads)

    def run(self, limit: int) -> Plan:
        while self._heads and len(self._placements) < limit:
            _, task, number = self._heads[0]
            lane, rest = self._lanes[number]
            if self._place(task, lane):
                following = next(rest, None)
                if following is not None:
                    heapq.heapreplace(self._heads, (-lane.priority, following, number))
                    continue
            heapq.heappop(self._heads)
        return Plan(
            tuple(self._placements),
            self._reasons,
            tuple(self._reservations),
            more=len(self._placements) >= limit,
            turn=self._turn,
        )

    def _place(self, task: int, lane: Lane) -> bool:
        """Give one task a place; otherwise its lane is through for this pass."""
        shape = lane.shape
        candidates = self._candidates(shape)
        if not candidates:
            self._reasons[task] = never(shape, self._cluster.rooms)
            return False
        capped = held_back(lane, self._batches, self._owners, self._cluster.caps)
        if capped:
            self._reasons[task] = capped
            return False
        offers = [
            (node, devices)
            for node in candidates
            for devices in [node.offer(shape, self._cluster.now)]
            if devices is not None
        ]
        if offers:
            self._take(task, lane, *self._best(shape, offers))
            return True
        self._wait(task, shape, candidates)
        return False

    def _candidates(self, shape: Shape) -> list[Node]:
        names = self._known.get(shape)
        if names is None:
            rooms = self._cluster.rooms if shape.node is None else self._named(shape.node)
            names = tuple(room.name for room in rooms if could_ever(shape, room) is None)
            self._known[shape] = names
        return [self._nodes[name] for name in names]

    def _named(self, name: str) -> tuple[Room, ...]:
        return (self._nodes[name].room,) if name in self._nodes else ()

    def _best(
        self, shape: Shape, offers: list[tuple[Node, tuple[Device, ...]]]
    ) -> tuple[Node, tuple[Device, ...]]:
        if shape.placement == "pack":
            return min(offers, key=lambda offer: (len(offer[0].stock.devices), offer[0].stock.cores))
        if shape.placement == "round-robin":
            return min(offers, key=lambda offer: (offer[0].room.name <= self._turn, offer[0].room.name))
        return max(offers, key=lambda offer: (offer[0].stock.cores, -offer[0].tasks))

    def _take(self, task: int, lane: Lane, node: Node, devices: tuple[Device, ...]) -> None:
        shape, room = lane.shape, node.room
        node.take(shape, devices, self._cluster.now)
        used = self._owners.get(lane.owner, Use())
        self._owners[lane.owner] = Use(used.tasks + 1, used.cores + shape.cores, used.gpus + len(devices))
        if lane.batch is not None:
            self._batches[lane.batch[0]] = self._batches.get(lane.batch[0], 0) + 1
        if shape.placement == "round-robin":
            self._turn = room.name
        self._placements.append(
            Placement(
                task,
                room.name,
                executor_of(shape, room.executors) or shape.executor,
                shape.numa,
                shape.cores,
                shape.memory,
                tuple(device.index for device in devices),
                tuple(device.id for device in devices),
            )
        )

    def _wait(self, task: int, shape: Shape, candidates: list[Node]) -> None:
        able = [
            node for node in candidates if not closed_for(shape, node.room) and able_now(shape, node.room)
        ]
        free = [node for node in able if node.room.name not in self._spoken_for]
        if free or not able or len(self._reasons) < MOST_REASONS:
            self._reasons[task] = _reason(shape, candidates)
        if not free:
            return
        best = min(free, key=lambda node: _distance(shape, node, self._cluster.now))
        best.kept_for = task
        self._reservations.append(Reservation(task, best.room.name, best.keep(shape, self._cluster.now)))
        self._spoken_for.update(node.room.name for node in able)


def _reason(shape: Shape, candidates: Sequence[Node]) -> str:
    for node in candidates:
        if not closed_for(shape, node.room) and node.stock.fits(shape, node.room) is not None:
            return f"waiting behind task {node.kept_for}, for which {node.room.name} keeps room"
    return reason(shape, [(node.room, node.stock) for node in candidates])


def able_now(shape: Shape, room: Room) -> bool:
    """Whether a node could take a shape if nobody else of ours were there: it needs no device that is lost
    or used by others."""
    if shape.count:
        return len(matching(shape, room)) >= shape.count
    return not any(device.lost for device in named_devices(shape, room))


def held_back(lane: Lane, batches: Mapping[int, int], owners: Mapping[str, Use], caps: Caps) -> str:
    """Which limit keeps a task back although there may be room for it; empty for none."""
    if lane.batch is not None and batches.get(lane.batch[0], 0) >= lane.batch[1]:
        return f"waiting: batch {lane.batch[0]} runs {lane.batch[1]} at a time"
    over = over_caps(lane, owners.get(lane.owner, Use()), caps)
    return f"waiting: {over}" if over else ""


def over_caps(lane: Lane, used: Use, caps: Caps) -> str:
    """Which cap of its owner a task would exceed; empty for none."""
    shape = lane.shape
    if caps.tasks and used.tasks + 1 > caps.tasks:
        return f"{lane.owner} may run {many(caps.tasks, 'task')} at a time"
    if caps.cores and shape.cores and used.cores + shape.cores > caps.cores:
        return f"{lane.owner} may have {cores(caps.cores)} at a time{_has(used.cores / 1000)}"
    wanted = shape.count or len(shape.gpus)
    if caps.gpus and wanted and used.gpus + wanted > caps.gpus:
        return f"{lane.owner} may have {many(caps.gpus, 'GPU')} at a time{_has(used.gpus)}"
    return ""


def _has(amount: float) -> str:
    return f" and has {format_cores(amount)}" if amount else ""


def _distance(shape: Shape, node: Node, now: float) -> tuple[bool, float, int, int, int]:
    """How far a node is from having room: by time where that is known, else by what is missing."""
    at, _ = node.enough_at(shape, now)
    stock = node.stock
    wanted = named_devices(shape, node.room) or matching(shape, node.room)
    free = sum(device.id in stock.devices for device in wanted)
    missing = max(0, (shape.count or len(shape.gpus)) - free)
    lacks = max(0, shape.cores - stock.cores), max(0, shape.memory - stock.memory)
    return (at is None, at or 0.0, missing, *lacks)
