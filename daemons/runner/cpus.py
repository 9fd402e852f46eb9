"""Who runs on which CPUs of this node.

Pinned attempts have theirs to themselves and keep them. All others share the rest: those with a number of
CPUs get the ones that the fewest others have, those without run anywhere, and both make room for pinned ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from daemons.runner.model import Attempt, Key
from hakuriver.nodewire import AttemptSpec


@dataclass(frozen=True, slots=True)
class Ask:
    """What an attempt asks for: so many CPUs (None: any, something else limits it) of those in ``near``, for
    itself alone or not."""

    count: int | None
    near: frozenset[int]
    pin: bool = False


class Cpus:
    """The CPUs of this node and what attempts have of them."""

    def __init__(self, every: Collection[int], numa: Mapping[int, Collection[int]]) -> None:
        self.every = frozenset(every)
        self._numa = {node: self.every & frozenset(cpus) for node, cpus in numa.items()}
        self._asks: dict[Key, Ask] = {}
        self._given: dict[Key, list[int]] = {}

    def ask_of(self, spec: AttemptSpec, *, by_quota: bool) -> Ask:
        """What a spec asks for. Cores may be a quota, unless they are pinned; a NUMA node without CPUs binds
        to none."""
        near = self._numa.get(spec.numa, frozenset()) if spec.numa is not None else frozenset()
        counted = spec.pin or (spec.cores > 0 and not by_quota)
        count = max(1, math.ceil(spec.cores)) if counted else None
        return Ask(count, near or self.every, spec.pin)

    def take(self, attempt: Attempt, *, by_quota: bool, again: bool = False) -> list[int]:
        """CPUs for a new attempt, empty for all; ``again``: it has its own already."""
        ask = self.ask_of(attempt.spec, by_quota=by_quota)
        given = attempt.cpus if again else self._choose(ask, self._given.items())
        self._asks[attempt.key], self._given[attempt.key] = ask, given
        return given

    def leave(self, key: Key) -> None:
        """It ended."""
        self._asks.pop(key, None)
        self._given.pop(key, None)

    @property
    def any_pinned(self) -> bool:
        return any(ask.pin for ask in self._asks.values())

    def moves(self) -> Iterator[tuple[Key, list[int]]]:
        """Those that must make room for a pinned one, or have room again, and their CPUs from now on."""
        pinned = self._pinned()
        for key, ask in self._asks.items():
            given = self._given[key]
            if ask.pin or not self._misplaced(ask, given, pinned):
                continue
            others = [(other, cpus) for other, cpus in self._given.items() if other != key]
            new = self._choose(ask, others)
            if new != given:
                self._given[key] = new
                yield key, new

    def _misplaced(self, ask: Ask, given: list[int], pinned: frozenset[int]) -> bool:
        room = ask.near - pinned or ask.near
        have = frozenset(given) or self.every
        if ask.count is None:
            return have != room
        return not have <= room or len(have) < min(ask.count, len(room))

    def _pinned(self) -> frozenset[int]:
        return frozenset(cpu for key, ask in self._asks.items() if ask.pin for cpu in self._given[key])

    def _choose(self, ask: Ask, others: Collection[tuple[Key, list[int]]]) -> list[int]:
        """The best CPUs beside others. Where there are not enough without pinned ones they are shared: the
        host has counted cores, so that can only happen to those bound to one NUMA node."""
        pinned = self._pinned()
        room = ask.near - pinned
        if ask.count is None:
            return sorted(room or ask.near) if (room or ask.near) != self.every else []
        if len(room) < ask.count and (ask.pin or not room):
            room = ask.near
        used = Counter(cpu for _, cpus in others for cpu in cpus)
        used.update(dict.fromkeys(pinned, len(others)))
        return pick_cpus(ask.count, room, used, self._numa.values())


def pick_cpus(
    count: int, room: Collection[int], used: Mapping[int, int], nodes: Collection[Collection[int]] = ()
) -> list[int]:
    """The ``count`` least used CPUs (all, when there are fewer), ascending; on one of the NUMA ``nodes``
    where that costs nothing."""

    def best(among: Collection[int]) -> list[int]:
        return sorted(among, key=lambda cpu: (used.get(cpu, 0), cpu))[:count]

    def cost(cpus: list[int]) -> int:
        return sum(used.get(cpu, 0) for cpu in cpus)

    found = best(room)
    for node in nodes:
        together = best([cpu for cpu in node if cpu in set(room)])
        if len(together) == len(found) and cost(together) == cost(found):
            return sorted(together)
    return sorted(found)
