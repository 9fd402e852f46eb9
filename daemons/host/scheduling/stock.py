"""What is free on one node, while a pass gives it away; and what fits into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from daemons.host.scheduling.model import NATIVE, NATIVES, Device, Holding, Room, Shape


@dataclass(slots=True)
class Stock:
    """Free cores, memory, memory and cores of NUMA nodes that tasks are bound to, and free devices."""

    cores: int
    memory: int
    numa: dict[int, tuple[int, int]]
    devices: set[str]

    @classmethod
    def of(cls, room: Room) -> Stock:
        """What is free there now; lost devices are not."""
        usable = {device.id for device in room.devices if not device.lost}
        numa = {each: (there.cores_free, there.memory_free) for each, there in room.numa.items()}
        return cls(room.cores_free, room.memory_free, numa, usable - room.devices_used)

    def copy(self) -> Stock:
        return Stock(self.cores, self.memory, dict(self.numa), set(self.devices))

    def take(self, cores: int, memory: int, numa: int | None, devices: Iterable[str]) -> None:
        """Give some of it away; more than there is leaves a debt."""
        self.cores -= cores
        self.memory -= memory
        if numa in self.numa:
            there = self.numa[numa]
            self.numa[numa] = (there[0] - cores, there[1] - memory)
        self.devices.difference_update(devices)

    def give_back(self, holding: Holding, usable: frozenset[str]) -> None:
        """As it will be when a task there has ended; ``usable`` are the devices that anybody can have."""
        self.take(-holding.cores, -holding.memory, holding.numa, ())
        self.devices.update(usable.intersection(holding.devices))

    def within(self, other: Stock) -> Stock:
        """What is free here and there."""
        numa = {
            each: (min(cores, other.numa[each][0]), min(memory, other.numa[each][1]))
            for each, (cores, memory) in self.numa.items()
        }
        return Stock(
            min(self.cores, other.cores), min(self.memory, other.memory), numa, self.devices & other.devices
        )

    def fits(self, shape: Shape, room: Room) -> tuple[Device, ...] | None:
        """The devices a shape would get here, none if it asks for none; None when it doesn't fit."""
        if shape.cores > self.cores or shape.memory > self.memory or shape.count > len(self.devices):
            return None
        if shape.numa is not None and not self._fits_numa(shape):
            return None
        if shape.gpus:
            chosen = named_devices(shape, room)
            return chosen if all(device.id in self.devices for device in chosen) else None
        if not shape.count:
            return ()
        free = [device for device in matching(shape, room) if device.id in self.devices]
        return pick(free, shape.count)

    def _fits_numa(self, shape: Shape) -> bool:
        there = self.numa.get(shape.numa) if shape.numa is not None else None
        return there is not None and shape.cores <= there[0] and shape.memory <= there[1]


def matching(shape: Shape, room: Room) -> list[Device]:
    """The devices that a counted request may get, free or not: neither lost ones nor those of others."""
    return [each for each in room.devices if not each.external and not each.lost and suits(shape, each)]


def suits(shape: Shape, device: Device) -> bool:
    """Whether a device is what a counted request asks for."""
    return (
        shape.model.lower() in device.model.lower()
        and device.memory >= shape.gpu_memory
        and (shape.numa is None or device.numa in (None, shape.numa))
    )


def named_devices(shape: Shape, room: Room) -> tuple[Device, ...]:
    """The devices that a request names by index, in that order."""
    by_index = {device.index: device for device in room.devices}
    return tuple(by_index[index] for index in shape.gpus)


def pick(free: list[Device], count: int) -> tuple[Device, ...] | None:
    """The best ``count`` of some devices: of one NUMA node where one has enough, small ones first, and from
    where the fewest are free."""
    if len(free) < count:
        return None
    groups: dict[int | None, list[Device]] = {}
    for device in free:
        groups.setdefault(device.numa, []).append(device)
    enough = [(len(group), _smallest(group, count)) for group in groups.values() if len(group) >= count]
    if enough:
        _, chosen = min(enough, key=lambda each: (_memory(each[1]), each[0], each[1][0].index))
    else:
        together = [each for group in sorted(groups.values(), key=len, reverse=True) for each in group]
        chosen = together[:count]
    return tuple(sorted(chosen, key=lambda device: device.index))


def _smallest(devices: list[Device], count: int) -> list[Device]:
    return sorted(devices, key=lambda device: (device.memory, device.index))[:count]


def _memory(devices: list[Device]) -> int:
    return sum(device.memory for device in devices)


def executor_of(shape: Shape, executors: Iterable[str]) -> str | None:
    """How a shape would be run on a node that has these executors; None when it can't be."""
    there = frozenset(executors)
    if shape.executor != NATIVE:
        return shape.executor if shape.executor in there else None
    return next((each for each in NATIVES if each in there), None)


def has_labels(shape: Shape, labels: Mapping[str, str]) -> bool:
    """Whether a node's labels are those that a shape asks for."""
    return all(labels.get(key) == value for key, value in shape.labels)
