"""Why one task waits, node by node, and whose end would let it go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daemons.host.scheduling.model import Cluster, Holding, Reservation, Room, Shape
from daemons.host.scheduling.passes import Node, able_now
from daemons.host.scheduling.stock import Stock
from daemons.host.scheduling.words import could_ever, shortage


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
    shape: Shape,
    cluster: Cluster,
    reservations: Sequence[Reservation],
    keepers: Mapping[int, Shape] | None = None,
) -> list[Prospect]:
    """Every node, those first where it is soonest. ``keepers``: what the tasks of reservations ask for."""
    kept = {each.node: each for each in reservations}
    shapes = keepers or {}
    found = []
    for room in cluster.rooms:
        each = kept.get(room.name)
        prospect = _prospect(shape, room, each)
        if each is not None and each.task in shapes and _after(shape, room, prospect, each, shapes[each.task]):
            why = f"{prospect.why}, and its room is kept for task {each.task}"
            prospect = Prospect(room.name, False, why, (*prospect.tasks, each.task))
        found.append(prospect)
    return sorted(found, key=_soonness)


def _after(shape: Shape, room: Room, prospect: Prospect, kept: Reservation, keeper: Shape) -> bool:
    """Whether a shape that waits for ends gets its room only after the task that it is kept for."""
    if not prospect.tasks or kept.task in prospect.tasks:
        return False
    if shape.limit is not None and prospect.at is not None and kept.at is not None:
        gone = prospect.at + shape.limit
        if gone <= kept.at:
            return False
    node = Node(room, Stock.of(room))
    node.keep(keeper, 0.0)
    return node.spare is None or node.spare.fits(shape, room) is None


def _prospect(shape: Shape, room: Room, kept: Reservation | None) -> Prospect:
    why = could_ever(shape, room) or room.closed
    if why:
        return Prospect(room.name, False, why)
    stock = Stock.of(room)
    short = shortage(shape, room, stock)
    if short:
        tasks, at = _ends_needed(shape, room, stock)
        return Prospect(room.name, False, f"needs {short}", tasks, at)
    if kept is not None:
        return Prospect(room.name, False, f"its room is kept for task {kept.task}", (kept.task,), kept.at)
    return Prospect(room.name, True, "there is room")


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
    for entry in list(needed[:-1]):  # those whose end changes nothing
        fewer = [each for each in needed if each != entry]
        without = stock.copy()
        for _, holding in fewer:
            without.give_back(holding, usable)
        if without.fits(shape, room) is not None:
            needed = fewer
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
