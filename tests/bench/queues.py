"""Queues and nodes of a size, for the scheduler's benchmark."""

from __future__ import annotations

import random

from daemons.host.scheduler import Room, Shape

GIB = 2**30


def make(tasks: int, nodes: int) -> tuple[dict[Shape, list[int]], list[Room]]:
    """A queue of a few dozen shapes, and nodes that are three quarters full."""
    source = random.Random(1)
    rooms = [
        Room(
            f"n{number}",
            64_000,
            source.randrange(16_000),
            256 * GIB,
            64 * GIB,
            frozenset({"process"}),
            tasks=40,
        )
        for number in range(nodes)
    ]
    queue: dict[Shape, list[int]] = {}
    for task in range(1, tasks + 1):
        node = f"n{source.randrange(nodes)}" if source.random() < 0.1 else None
        shape = Shape(
            node, None, (), source.choice((1000, 2000, 4000, 8000)), source.choice((0, GIB)), "process"
        )
        queue.setdefault(shape, []).append(task)
    return queue, rooms
