"""What the scheduler looks at and what it answers with.

Cores are whole millicores, memory is bytes, times are seconds of one clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

QUEUED = "queued behind earlier tasks"
NO_NODE = "no node has joined yet"
UNMEASURED = "not measured yet"
"""Why a device counts as lost of which nothing was heard since its node is there."""
NATIVE = "native"
NATIVES = ("systemd", "process")
"""What ``native`` stands for, the better one first."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a task asks for; tasks of one shape are looked at once a pass.

    ``node`` None is anywhere. GPUs are either named by index (``gpus``) or counted (``count``, with part of a
    ``model``'s name and ``gpu_memory`` that each must have). ``limit`` is after how many seconds it is gone
    for certain, None for never. ``labels`` are ascending.
    """

    node: str | None
    numa: int | None
    gpus: tuple[int, ...]
    cores: int
    memory: int
    executor: str
    count: int = 0
    model: str = ""
    gpu_memory: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    placement: str = "spread"
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Lane:
    """Tasks that differ in nothing but their age. ``batch`` is (its id, how many of it may run at a time)."""

    shape: Shape
    owner: str = ""
    priority: int = 0
    batch: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a part of one. ``external``: somebody else uses it. ``lost`` says why nobody can."""

    id: str
    index: int
    model: str = ""
    memory: int = 0
    numa: int | None = None
    external: bool = False
    lost: str = ""


@dataclass(frozen=True, slots=True)
class NumaRoom:
    """A NUMA node, and what is left of it by tasks that are bound there."""

    cores: int
    cores_free: int
    memory: int
    memory_free: int


@dataclass(frozen=True, slots=True)
class Holding:
    """What the current attempt of a task holds on its node. ``ends_at`` is when it is gone for certain."""

    attempt: int
    node: str
    cores: int
    memory: int
    devices: tuple[str, ...]
    numa: int | None = None
    owner: str = ""
    batch: int | None = None
    ends_at: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Room:
    """A node with what is free on it; ``closed`` says why nothing may be placed there, empty for open.

    ``holdings`` are by task. ``devices_used`` are those of the holdings. ``away`` are executors that it will
    have again, and why not now.
    """

    name: str
    cores: int
    cores_free: int
    memory: int
    memory_free: int
    executors: frozenset[str]
    closed: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    numa: Mapping[int, NumaRoom] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    devices_used: frozenset[str] = frozenset()
    holdings: Mapping[int, Holding] = field(default_factory=dict)
    away: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Use:
    """What an owner has now."""

    tasks: int = 0
    cores: int = 0
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Caps:
    """What an owner may have at a time; 0 is no limit."""

    tasks: int = 0
    cores: int = 0
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything but the queue. ``turn`` is the node that the last round-robin task went to."""

    rooms: tuple[Room, ...]
    now: float = 0.0
    caps: Caps = Caps()
    owners: Mapping[str, Use] = field(default_factory=dict)
    batches: Mapping[int, int] = field(default_factory=dict)  # batch → how many of it run
    turn: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """A task's place and what it is given there."""

    task: int
    node: str
    executor: str
    numa: int | None
    cores: int
    memory: int
    gpus: tuple[int, ...]
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room that is kept on ``node`` for a task that can't start yet; ``at`` is when it will be enough, None
    where that can't be known."""

    task: int
    node: str
    at: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Outcome of a pass. Waiting tasks without a reason of their own are ``QUEUED``; ``more`` asks for
    another pass, because this one reached its limit."""

    placements: tuple[Placement, ...]
    reasons: Mapping[int, str]
    reservations: tuple[Reservation, ...] = ()
    more: bool = False
    turn: str = ""
