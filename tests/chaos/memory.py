"""How the resident memory of daemons grows while they live."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from tests.chaos.lab import Daemon

EVERY = 1.0
LEAST = 30
"""Samples without which nothing can be said."""


@dataclass(frozen=True)
class Growth:
    """Resident KiB: medians of the fifth after warming up (a third of the time) and of the last fifth."""

    warm: int
    last: int

    @property
    def percent(self) -> float:
        return 100 * (self.last - self.warm) / self.warm

    def __str__(self) -> str:
        return f"{self.warm} → {self.last} KiB ({self.percent:+.1f} %)"


class Memory:
    """Looks every second, from a thread of its own, while it is entered."""

    def __init__(self, daemons: Iterable[Daemon]) -> None:
        self._daemons = list(daemons)
        self._seen: dict[str, list[tuple[int, int]]] = {each.name: [] for each in self._daemons}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(EVERY):
            for daemon in self._daemons:
                try:
                    self._seen[daemon.name].append(daemon.memory())
                except (OSError, IndexError):
                    continue  # it is being killed at this moment

    def growth(self) -> dict[str, Growth]:
        """Of those that lived all the time, by name."""
        return {
            name: growth(kib)
            for name, seen in self._seen.items()
            if len({pid for pid, _ in seen}) == 1 and len(kib := [each for _, each in seen]) >= LEAST
        }


def growth(kib: list[int]) -> Growth:
    """What a row of samples says."""
    fifth, third = len(kib) // 5, len(kib) // 3
    return Growth(int(statistics.median(kib[third : third + fifth])), int(statistics.median(kib[-fifth:])))
