"""The memory limit of a task: watched where no cgroup enforces it, asked for where one does."""

# ruff: noqa: PTH123  (see proc.py)

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from daemons.runner.shim.proc import proportional, resident

WATCH_INTERVAL = 0.25


class MemoryWatch:
    """Looks now and then whether processes hold more than ``limit`` bytes together (0: never)."""

    def __init__(self, limit: int, members: Callable[[], list[int]]) -> None:
        self._limit = limit
        self._members = members
        self._look_at = 0.0
        self._exact_at = 0.0

    def look(self, now: float) -> tuple[bool, float]:
        """Whether it is too much, and when to look again."""
        if not self._limit:
            return False, now + 3600
        if now < self._look_at:
            return False, self._look_at
        self._look_at = now + WATCH_INTERVAL
        pids = self._members()
        if resident(pids) <= self._limit or now < self._exact_at:
            return False, self._look_at
        used = proportional(pids)
        cost = time.monotonic() - now
        self._exact_at = now + 20 * cost  # a huge task must not be slowed by being measured
        return used > self._limit, self._look_at


def oom_kills(path: str) -> int | None:
    """How many processes the kernel killed in a cgroup, by its file of events; None when nobody can tell."""
    found = None
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        for line in file:
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                found = int(count)
    return found
