"""Why one task waits, node by node, and whose end would let it go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemons.host.scheduling.model import Cluster, Holding, Reservation, Room, Shape
from daemons.host.scheduling.passes import Node, able_now
from daemons.host.scheduling.stock import Stock
from daemons.host.scheduling.words import closed_for, could_ever, shortage


@dataclass(frozen=True, slots=True)
class Prospect:
    """One node for one task: ``tasks`` are those whose ends would make the room, ``at`` is when the last of
    them is expected, None where that can't be known."""

    node: str
    fits: bool
    why: str
    tasks: tuple[int, ...] = ()
    at: float | None = None


def prospects(
    shape: Shape, cluster: Cluster, reservations: Sequence[tuple[Reservation, Shape]]
) -> list[Prospect]:
    """Every node, those first where it is soonest. ``reservations`` of others, with what those ask for."""
    kept = {each.node: (each, keeper) for each, keeper in reservations}
    found = [_prospect(shape, room, kept.get(room.name), cluster.now) for room in cluster.rooms]
    return sorted(found, key=_soonness)


def _prospect(shape: Shape, room: Room, kept: tuple[Reservation, Shape] | None, now: float) -> Prospect:
    why = could_ever(shape, room) or closed_for(shape, room)
    if why:
        return Prospect(room.name, False, why)
    stock = Stock.of(room)
    short = shortage(shape, room, stock)
    found = Prospect(room.name, True, "there is room")
    if short:
        found = Prospect(room.name, False, f"needs {short}", *_ends_needed(shape, room, stock))
    if kept is None or _beside(shape, room, *kept, found.at if short else now):
        return found
    (first, _), theirs = kept, f"its room is kept for task {kept[0].task}"
    if found.fits:
        return Prospect(room.name, False, theirs, (first.task,), first.at)
    if not found.tasks:
        return found
    return Prospect(room.name, False, f"{found.why}, and {theirs}", (*found.tasks, first.task))


def _beside(shape: Shape, room: Room, kept: Reservation, keeper: Shape, start: float | None) -> bool:
    """Whether a shape could go before the task that room is kept for, with a start at that time."""
    if shape.limit is not None and start is not None and kept.at is not None:
        gone = start + shape.limit
        if gone <= kept.at:
            return True
    node = Node(room, Stock.of(room))
    node.keep(keeper, 0.0)
    return node.spare is not None and node.spare.fits(shape, room) is not None


def _ends_needed(shape: Shape, room: Room, stock: Stock) -> tuple[tuple[int, ...], float | None]:
    """The tasks that must end, the soonest first and as few of them as do."""
    if not able_now(shape, room):
        return (), None
    usable = frozenset(device.id for device in room.devices if not device.lost)
    needed: list[tuple[int, Holding]] = []
    later = stock.copy()
    for task, holding in sorted(room.holdings.items(), key=_end):
        later.give_back(holding, usable)
        needed.append((task, holding))
        if later.fits(shape, room) is not None:
            break
    else:
        return (), None
    for entry in needed[:-1]:  # those whose end changes nothing
        _, holding = entry
        later.take(holding.cores, holding.memory, holding.numa, holding.devices)
        if later.fits(shape, room) is not None:
            needed.remove(entry)
        else:
            later.give_back(holding, usable)
    ends = [holding.ends_at for _, holding in needed]
    at = None if None in ends else max((each for each in ends if each is not None), default=None)
    return tuple(task for task, _ in needed), at


def _end(entry: tuple[int, Holding]) -> tuple[bool, float, int]:
    task, holding = entry
    return holding.ends_at is None, holding.ends_at or 0.0, task


def _soonness(prospect: Prospect) -> tuple[bool, bool, bool, float, int, str]:
    known = prospect.at is not None
    return (
        not prospect.fits,
        not prospect.tasks,
        not known,
        prospect.at or 0.0,
        len(prospect.tasks),
        prospect.node,
    )
