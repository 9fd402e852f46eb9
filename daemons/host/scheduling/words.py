"""Why a task can't run, or can't run now, in words that change only when the facts do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daemons.host.scheduling.model import NATIVE, NO_NODE, UNMEASURED, Room, Shape
from daemons.host.scheduling.stock import Stock, executor_of, has_labels, matching, named_devices, suits
from hakuriver.units import format_cores, format_size


def could_ever(shape: Shape, room: Room) -> str | None:
    """Why a node can never take a shape, even when it is empty and open; None when it can."""
    name = room.name
    if shape.node is not None and shape.node != name:
        return f"{name} is not {shape.node}"
    if executor_of(shape, {*room.executors, *room.away}) is None:
        return (
            f"{name} has no executor {'systemd or process' if shape.executor == NATIVE else shape.executor}"
        )
    if not has_labels(shape, room.labels):
        lacks = [f"{key}={value}" for key, value in shape.labels if room.labels.get(key) != value]
        return f"{name} has no label {', '.join(lacks)}"
    if shape.cores > room.cores:
        return f"{name} has {cores(room.cores)}, not {format_cores(shape.cores / 1000)}"
    if shape.memory > room.memory:
        return f"{name} has {format_size(room.memory)} of memory, not {format_size(shape.memory)}"
    return _never_numa(shape, room) or _never_gpus(shape, room)


def closed_for(shape: Shape, room: Room) -> str:
    """Why a node takes no task like this now, whatever is free there; empty when it does."""
    return room.closed or (room.away.get(shape.executor, "") if room.away else "")


def _never_numa(shape: Shape, room: Room) -> str | None:
    if shape.numa is None:
        return None
    there = room.numa.get(shape.numa)
    if there is None:
        known = f"it has {', '.join(map(str, sorted(room.numa)))}" if room.numa else "it has none"
        return f"{room.name} has no NUMA node {shape.numa} ({known})"
    where = f"NUMA node {shape.numa} of {room.name}"
    if shape.cores > there.cores:
        return f"{where} has {cores(there.cores)}, not {format_cores(shape.cores / 1000)}"
    if shape.memory > there.memory:
        return f"{where} has {format_size(there.memory)} of memory, not {format_size(shape.memory)}"
    return None


def _never_gpus(shape: Shape, room: Room) -> str | None:
    have = {device.index for device in room.devices}
    missing = [gpu for gpu in shape.gpus if gpu not in have]
    if missing:
        known = f"it has {_indices(sorted(have))}" if have else "it has none"
        return f"{room.name} has no GPU {', '.join(map(str, missing))} ({known})"
    if shape.gpus and shape.numa is not None:
        for device in named_devices(shape, room):
            if device.numa not in (None, shape.numa):
                return f"GPU {device.index} of {room.name} is on NUMA node {device.numa}, not {shape.numa}"
    if shape.count:
        suitable = sum(suits(shape, device) for device in room.devices)
        if suitable < shape.count:
            where = "" if shape.numa is None else f" on NUMA node {shape.numa}"
            return f"{room.name} has {many(suitable, 'GPU', gpu_kind(shape))}{where}, not {shape.count}"
    return None


def _indices(numbers: Sequence[int]) -> str:
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}–{numbers[-1]}"
    return ", ".join(map(str, numbers))


def shortage(shape: Shape, room: Room, stock: Stock) -> str:
    """What a node that could take a shape has too little of now; empty when it fits."""
    name = room.name
    if shape.cores > stock.cores:
        return f"{cores(shape.cores)} on {name} ({_of(stock.cores, room.cores)} free)"
    if shape.memory > stock.memory:
        return f"{format_size(shape.memory)} of memory on {name} ({_sizes(stock.memory, room.memory)} free)"
    if shape.numa is not None:
        there, whole = stock.numa[shape.numa], room.numa[shape.numa]
        where = f"NUMA node {shape.numa} of {name}"
        if shape.cores > there[0]:
            return f"{cores(shape.cores)} on {where} ({_of(there[0], whole.cores)} free)"
        if shape.memory > there[1]:
            return f"{format_size(shape.memory)} of memory on {where} ({_sizes(there[1], whole.memory)} free)"
    return _short_of_gpus(shape, room, stock)


def _short_of_gpus(shape: Shape, room: Room, stock: Stock) -> str:
    named = named_devices(shape, room) if shape.gpus else ()
    lost = [device for device in named if device.lost]
    if lost:
        return f"GPU {lost[0].index} of {room.name}: {lost[0].lost}"
    busy = [device.index for device in named if device.id not in stock.devices]
    if busy:
        return f"GPU {', '.join(map(str, busy))} on {room.name} (in use)"
    free = sum(device.id in stock.devices for device in matching(shape, room)) if shape.count else 0
    if free >= shape.count:
        return ""
    suitable = [device for device in room.devices if suits(shape, device)]
    external = sum(device.external for device in suitable)
    unmeasured = sum(device.lost == UNMEASURED for device in suitable)
    lost_now = sum(bool(device.lost) for device in suitable) - unmeasured
    notes = [f"{free} of {len(suitable)} free"]
    notes += [f"{external} used by others"] if external else []
    notes += [f"{lost_now} lost"] if lost_now else []
    notes += [f"{unmeasured} {UNMEASURED}"] if unmeasured else []
    return f"{gpus(shape)} on {room.name} ({', '.join(notes)})"


def reason(shape: Shape, waiting_at: Sequence[tuple[Room, Stock]]) -> str:
    """Why a task waits that could run on these nodes, with what is free there for it."""
    open_now = [(room, stock) for room, stock in waiting_at if not closed_for(shape, room)]
    if not open_now:
        closed = ", ".join(closed_for(shape, room) for room, _ in waiting_at[:3])
        more = f" and {len(waiting_at) - 3} more" if len(waiting_at) > 3 else ""
        return f"waiting: {closed}{more}"
    if len(open_now) == 1:
        return f"waiting for {shortage(shape, *open_now[0])}"
    room, stock = max(open_now, key=lambda pair: _most_free(shape, *pair))
    return (
        f"waiting for {asked(shape)} on one of {len(open_now)} nodes (most free: {_left(shape, room, stock)})"
    )


def never(shape: Shape, rooms: Sequence[Room]) -> str:
    """Why a task can't run on any of these nodes."""
    if not rooms:
        return NO_NODE
    if shape.node is not None:
        named = [room for room in rooms if room.name == shape.node]
        return f"can't run: {could_ever(shape, named[0])}" if named else f"there is no node {shape.node}"
    return f"no node can run it: {'; '.join(could_ever(shape, room) or '' for room in rooms[:3])}"


def largest(shape: Shape, rooms: Iterable[Room]) -> str:
    """What no node has, in the words of the request: the refusal of what can never fit anywhere."""
    rooms = list(rooms)
    if shape.count and max(sum(suits(shape, each) for each in room.devices) for room in rooms) < shape.count:
        room = max(rooms, key=lambda room: sum(suits(shape, each) for each in room.devices))
        most = sum(suits(shape, each) for each in room.devices)
        there = f"{room.name} has the most, {most}" if most else "none has any"
        return f"no node has {gpus(shape)} ({there})"
    room = max(rooms, key=lambda room: (room.cores, room.memory))
    return (
        f"no node can take {asked(shape)} (the largest is {room.name} "
        f"with {cores(room.cores)} and {format_size(room.memory)})"
    )


def _most_free(shape: Shape, room: Room, stock: Stock) -> tuple[int, int, int]:
    return _free_gpus(shape, room, stock), stock.cores, stock.memory


def _free_gpus(shape: Shape, room: Room, stock: Stock) -> int:
    return sum(device.id in stock.devices for device in matching(shape, room)) if shape.count else 0


def _left(shape: Shape, room: Room, stock: Stock) -> str:
    found = f"{cores(max(0, stock.cores))} and {format_size(max(0, stock.memory))}"
    if shape.count:
        free = many(_free_gpus(shape, room, stock), "GPU", gpu_kind(shape))
        return f"{room.name} with {free}, {found}"
    return f"{room.name} with {found}"


def asked(shape: Shape) -> str:
    """What a shape asks for, without its place."""
    parts = [cores(shape.cores)] if shape.cores or not shape.count else []
    parts += [f"{format_size(shape.memory)} of memory"] if shape.memory else []
    parts += [gpus(shape)] if shape.count else []
    return " and ".join(parts)


def gpus(shape: Shape) -> str:
    """The GPUs that a shape counts."""
    return many(shape.count, "GPU", gpu_kind(shape))


def many(number: int, what: str, more: str = "") -> str:
    """``1 GPU``, ``no GPUs``, ``2 GPUs a100``."""
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}{more}"


def gpu_kind(shape: Shape) -> str:
    """Which GPUs a shape wants; empty for any."""
    model = f" {shape.model}" if shape.model else ""
    memory = f" with {format_size(shape.gpu_memory)}" if shape.gpu_memory else ""
    return f"{model}{memory}"


def cores(millicores: int) -> str:
    """``1 core``, ``0.5 cores``."""
    return f"{format_cores(millicores / 1000)} {'core' if millicores == 1000 else 'cores'}"


def _of(free: int, whole: int) -> str:
    return f"{format_cores(max(0, free) / 1000)} of {format_cores(whole / 1000)}"


def _sizes(free: int, whole: int) -> str:
    return f"{format_size(max(0, free))} of {format_size(whole)}"
