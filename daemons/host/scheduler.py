"""What runs where: a pure function of the queue and the nodes.

First in, first out. A task that finds no room blocks the nodes that it could use, so that nothing younger
takes what it waits for; tasks that can use other nodes still go there. Tasks of one shape stand in one lane,
so a pass looks at each shape once, however long the queue is.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hakuriver.units import format_cores, format_size

QUEUED = "queued behind earlier tasks"
NO_NODE = "no node has joined yet"
PASS_LIMIT = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """What a task asks for: ``cores`` in millicores, ``memory`` in bytes, ``node`` None for anywhere."""

    node: str | None
    numa: int | None
    gpus: tuple[int, ...]
    cores: int
    memory: int
    executor: str


@dataclass(frozen=True, slots=True)
class Room:
    """A node with what is free on it; ``closed`` says why nothing may be placed there, empty for open."""

    name: str
    cores: int
    cores_free: int
    memory: int
    memory_free: int
    executors: frozenset[str]
    closed: str = ""
    numa: frozenset[int] = frozenset()
    gpus: Mapping[int, str] = field(default_factory=dict)  # index → device id
    devices_used: frozenset[str] = frozenset()
    tasks: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """A task's place and what it is given there."""

    task: int
    node: str
    numa: int | None
    cores: int
    memory: int
    gpus: tuple[int, ...]
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Outcome of a pass. Waiting tasks without a reason of their own are ``QUEUED``; ``more`` asks for
    another pass, because this one reached its limit."""

    placements: tuple[Placement, ...]
    reasons: Mapping[int, str]
    more: bool = False


@dataclass(slots=True)
class _Free:
    """A room while a pass fills it."""

    room: Room
    cores: int
    memory: int
    devices: set[str]
    tasks: int

    def fits(self, shape: Shape) -> bool:
        return (
            shape.cores <= self.cores
            and shape.memory <= self.memory
            and all(self.room.gpus[gpu] in self.devices for gpu in shape.gpus)
        )

    def take(self, task: int, shape: Shape) -> Placement:
        devices = tuple(self.room.gpus[gpu] for gpu in shape.gpus)
        self.cores -= shape.cores
        self.memory -= shape.memory
        self.devices.difference_update(devices)
        self.tasks += 1
        return Placement(task, self.room.name, shape.numa, shape.cores, shape.memory, shape.gpus, devices)


def place(queue: Mapping[Shape, Iterable[int]], rooms: Sequence[Room], limit: int = PASS_LIMIT) -> Plan:
    """Place waiting tasks; ``queue`` has the ids of each shape in ascending order."""
    free = {
        room.name: _Free(
            room, room.cores_free, room.memory_free, set(room.gpus.values()) - room.devices_used, room.tasks
        )
        for room in rooms
    }
    placements: list[Placement] = []
    reasons: dict[int, str] = {}
    blocked: set[str] = set()
    lanes = {shape: iter(ids) for shape, ids in queue.items()}
    heads = [
        (first, number, shape)
        for number, shape in enumerate(lanes)
        for first in [next(lanes[shape], None)]
        if first
    ]
    heapq.heapify(heads)
    usable: dict[Shape, list[_Free]] = {}
    while heads and len(placements) < limit:
        task, number, shape = heads[0]
        if shape not in usable:
            usable[shape] = [each for each in free.values() if could_ever(shape, each.room) is None]
        candidates = usable[shape]
        open_now = [each for each in candidates if each.room.name not in blocked]
        fitting = [each for each in open_now if not each.room.closed and each.fits(shape)]
        if fitting:
            best = max(fitting, key=lambda each: (each.cores, -each.tasks))
            placements.append(best.take(task, shape))
            following = next(lanes[shape], None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following, number, shape))
            continue
        heapq.heappop(heads)
        if open_now or not candidates:
            reasons[task] = _reason(shape, rooms, open_now)
        blocked.update(each.room.name for each in open_now)
        if len(blocked) == len(free) and free:
            break
    return Plan(tuple(placements), reasons, more=len(placements) >= limit)


def could_ever(shape: Shape, room: Room) -> str | None:
    """Why a room can never take a shape, even when it is empty and open; None when it can."""
    if shape.node is not None and shape.node != room.name:
        return f"{room.name} is not {shape.node}"
    if shape.executor not in room.executors:
        return f"{room.name} has no executor {shape.executor}"
    if shape.numa is not None and shape.numa not in room.numa:
        return f"{room.name} has no NUMA node {shape.numa}"
    missing = [gpu for gpu in shape.gpus if gpu not in room.gpus]
    if missing:
        return f"{room.name} has no GPU {', '.join(map(str, missing))}"
    if shape.cores > room.cores:
        return f"{room.name} has {_cores(room.cores)}, not {format_cores(shape.cores / 1000)}"
    if shape.memory > room.memory:
        return f"{room.name} has {format_size(room.memory)} of memory, not {format_size(shape.memory)}"
    return None


def _reason(shape: Shape, rooms: Sequence[Room], open_now: Sequence[_Free]) -> str:
    """Why the oldest task of a shape waits, in words that change only when the facts do."""
    if not open_now:
        return _never(shape, rooms)
    reachable = [each for each in open_now if not each.room.closed]
    if not reachable:
        closed = ", ".join(each.room.closed for each in open_now[:3])
        more = f" and {len(open_now) - 3} more" if len(open_now) > 3 else ""
        return f"waiting: {closed}{more}"
    if len(reachable) > 1:
        best = max(reachable, key=lambda each: (each.cores, each.memory))
        return f"waiting for {_asked(shape)} on one of {len(reachable)} nodes (most free: {_left(best)})"
    (only,) = reachable
    room = only.room
    if shape.cores > only.cores:
        return (
            f"waiting for {_cores(shape.cores)} on {room.name} "
            f"({format_cores(max(0, only.cores) / 1000)} of {format_cores(room.cores / 1000)} free)"
        )
    if shape.memory > only.memory:
        return (
            f"waiting for {format_size(shape.memory)} of memory on {room.name} "
            f"({format_size(max(0, only.memory))} of {format_size(room.memory)} free)"
        )
    busy = [gpu for gpu in shape.gpus if room.gpus[gpu] not in only.devices]
    return f"waiting for GPU {', '.join(map(str, busy))} on {room.name} (in use)"


def _never(shape: Shape, rooms: Sequence[Room]) -> str:
    if not rooms:
        return NO_NODE
    if shape.node is not None:
        named = [room for room in rooms if room.name == shape.node]
        return f"can't run: {could_ever(shape, named[0])}" if named else f"there is no node {shape.node}"
    return f"no node can run it: {'; '.join(could_ever(shape, room) or '' for room in rooms[:3])}"


def _asked(shape: Shape) -> str:
    memory = f" and {format_size(shape.memory)} of memory" if shape.memory else ""
    return f"{_cores(shape.cores)}{memory}"


def _left(free: _Free) -> str:
    return f"{free.room.name} with {_cores(max(0, free.cores))} and {format_size(max(0, free.memory))}"


def _cores(millicores: int) -> str:
    return f"{format_cores(millicores / 1000)} {'core' if millicores == 1000 else 'cores'}"
