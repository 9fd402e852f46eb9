"""Queues and clusters of a size, for the scheduler's benchmark."""

from __future__ import annotations

import random
from dataclasses import replace

from daemons.host.scheduling.model import Cluster, Device, Holding, Lane, Room, Shape

GIB = 2**30


def make(tasks: int, nodes: int, shapes: int = 60) -> tuple[dict[Lane, list[int]], Cluster]:
    """A queue of some shapes and owners, and nodes with 8 GPUs each that are three quarters full."""
    source = random.Random(1)
    rooms = tuple(_room(f"n{number}", source) for number in range(nodes))
    kinds = [_shape(source, nodes) for _ in range(shapes)]
    queue: dict[Lane, list[int]] = {}
    for task in range(1, tasks + 1):
        lane = Lane(source.choice(kinds), source.choice(("ann", "bob", "eve")), source.choice((0, 0, 0, 10)))
        queue.setdefault(lane, []).append(task)
    return queue, Cluster(rooms, 1000.0)


def _room(name: str, source: random.Random) -> Room:
    devices = tuple(
        Device(f"{name}-{index}", index, "NVIDIA A100", 80 * GIB, index // 4) for index in range(8)
    )
    used = devices[: source.randrange(4, 9)]
    limits = (None, None, source.uniform(60, 86400))
    held = {
        number: Holding(1, name, 6_000, 16 * GIB, (device.id,), ends_at=source.choice(limits))
        for number, device in enumerate(used)
    }
    room = Room(name, 64_000, 64_000, 256 * GIB, 256 * GIB, frozenset({"process"}), devices=devices)
    return replace(
        room,
        cores_free=64_000 - 6_000 * len(used) - source.randrange(12) * 1000,
        memory_free=256 * GIB - 16 * GIB * len(used),
        devices_used=frozenset(device.id for device in used),
        holdings=held,
    )


def _shape(source: random.Random, nodes: int) -> Shape:
    node = f"n{source.randrange(nodes)}" if source.random() < 0.1 else None
    count = source.choice((0, 0, 1, 2, 4, 8))
    return Shape(
        node,
        None,
        (),
        source.choice((1000, 2000, 4000, 8000, 32_000)),
        source.choice((0, GIB, 64 * GIB)),
        "process",
        count,
        placement="pack" if count else "spread",
        limit=source.choice((None, 600.0, 7200.0)),
    )
