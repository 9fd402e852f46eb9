"""A cluster that lives: tasks come, start, end early or at their limit, nodes close and open again. After
each event the scheduler has its say, and what it promises is checked by arithmetic of its own."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from daemons.host.scheduling.model import (
    Caps,
    Cluster,
    Device,
    Holding,
    Lane,
    NumaRoom,
    Placement,
    Plan,
    Room,
    Shape,
    Use,
)
from daemons.host.scheduling.passes import place
from daemons.host.scheduling.stock import Stock, executor_of, matching, named_devices
from daemons.host.scheduling.words import could_ever

NAMES = ("n1", "n2", "n3")
MODELS = ("A100-40", "A100-80", "L4")


@dataclass(frozen=True)
class Machine:
    """What a node has, and whether it is open."""

    name: str
    cores: int
    memory: int
    numa: int
    devices: tuple[Device, ...]
    labels: tuple[tuple[str, str], ...]
    closed: str = ""
    external: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()


machines = st.builds(
    lambda name, cores, memory, numa, models, labels: Machine(
        name,
        cores * 1000,
        memory,
        numa,
        tuple(
            Device(
                f"{name}-{index}",
                index,
                model,
                int(model.rpartition("-")[2]) if "-" in model else 24,
                index % numa if numa else None,
            )
            for index, model in enumerate(models)
        ),
        labels,
    ),
    st.just(""),
    st.sampled_from((2, 2, 3, 4)),
    st.sampled_from((0, 4, 8)),
    st.sampled_from((0, 0, 1, 2)),
    st.lists(st.sampled_from(MODELS), max_size=4),
    st.sampled_from(((), (("disk", "fast"),))),
)


@st.composite
def clusters(draw: st.DrawFn) -> dict[str, Machine]:
    found = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1)):
        made = draw(machines)
        devices = tuple(replace(each, id=f"{name}-{each.index}") for each in made.devices)
        found[name] = replace(made, name=name, devices=devices)
    return found


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    node = draw(st.sampled_from((None, None, None, None, *NAMES)))
    numa = draw(st.sampled_from((None, None, 0, 1))) if node else None
    gpus = draw(st.sampled_from(((), (), (0,), (0, 1), (2,)))) if node else ()
    count = 0 if gpus else draw(st.sampled_from((0, 0, 0, 1, 2)))
    return Shape(
        node,
        numa,
        gpus,
        draw(st.sampled_from((0, 500, 1000, 1000, 2000, 2000, 3000))),
        draw(st.sampled_from((0, 0, 1, 4))),
        draw(st.sampled_from(("process", "native"))),
        count,
        draw(st.sampled_from(("", "", "a100", "L4"))) if count else "",
        draw(st.sampled_from((0, 0, 50))) if count else 0,
        draw(st.sampled_from(((), (), (), (), (("disk", "fast"),)))),
        draw(st.sampled_from(("pack", "spread", "round-robin"))),
        draw(st.sampled_from((None, 3.0, 5.0, 10.0, 30.0))),
    )


lanes = st.builds(
    Lane,
    shapes(),
    st.sampled_from(("ann", "bob")),
    st.sampled_from((0, 0, 0, 5)),
    st.sampled_from((None, None, (1, 2))),
)


class Life(RuleBasedStateMachine):
    """``promised``: when a task that is first in line was told that it can start, as long as that holds."""

    @initialize(machines=clusters(), caps=st.sampled_from((Caps(), Caps(3, 6000, 2))))
    def begin(self, machines: dict[str, Machine], caps: Caps) -> None:
        self.machines = machines
        self.caps = caps
        self.now = 0.0
        self.last = 0
        self.turn = ""
        self.waiting: dict[int, Lane] = {}
        self.running: dict[int, tuple[Lane, Holding]] = {}
        self.promised: tuple[int, float] | None = None

    @rule(lane=lanes, copies=st.sampled_from((1, 1, 2)))
    def submit(self, lane: Lane, copies: int) -> None:
        shape = lane.shape
        if all(could_ever(shape, room) for room in self.rooms()):  # most must be possible, or nothing happens
            shape = replace(shape, node=None, numa=None, gpus=(), count=0, model="", gpu_memory=0, labels=())
            lane = replace(lane, shape=replace(shape, memory=0, cores=min(2000, shape.cores or 1000)))
        for _ in range(copies):
            self.last += 1
            self.waiting[self.last] = lane
        if self.promised and lane.priority > 0:
            self.promised = None
        self.schedule()

    @rule(data=st.data())
    def end_early(self, data: st.DataObject) -> None:
        if self.running:
            del self.running[data.draw(st.sampled_from(sorted(self.running)))]
        self.schedule()

    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        if self.waiting:
            task = data.draw(st.sampled_from(sorted(self.waiting)))
            del self.waiting[task]
            if self.promised and self.promised[0] == task:
                self.promised = None
        self.schedule()

    @rule(seconds=st.sampled_from((1.0, 2.0, 5.0, 20.0)))
    def time_goes_on(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            ends = [held.ends_at for _, held in self.running.values() if held.ends_at is not None]
            following = min((end for end in ends if end <= until), default=None)
            if following is None:
                break
            self.now = following
            self.running = {
                task: entry for task, entry in self.running.items() if entry[1].ends_at != following
            }
            self.schedule()
        self.now = until
        self.schedule()

    @rule(name=st.sampled_from(NAMES), data=st.data())
    def something_happens_to_a_node(self, name: str, data: st.DataObject) -> None:
        if name not in self.machines:
            return
        machine = self.machines[name]
        ids = [device.id for device in machine.devices]
        some = st.frozensets(st.sampled_from(ids)) if ids else st.just(frozenset[str]())
        closed = data.draw(st.sampled_from(("", "", f"{name} is drained")))
        self.machines[name] = replace(machine, closed=closed, external=data.draw(some), lost=data.draw(some))
        self.promised = None
        self.schedule()

    # What the scheduler is shown

    def rooms(self) -> tuple[Room, ...]:
        return tuple(self.room(self.machines[name]) for name in sorted(self.machines))

    def room(self, machine: Machine) -> Room:
        held = {task: entry[1] for task, entry in self.running.items() if entry[1].node == machine.name}
        share = machine.cores // machine.numa // 1000 * 1000 if machine.numa else 0
        numa = {}
        for each in range(machine.numa):
            mine = [holding for holding in held.values() if holding.numa == each]
            memory = machine.memory // machine.numa
            numa[each] = NumaRoom(
                share,
                share - sum(holding.cores for holding in mine),
                memory,
                memory - sum(holding.memory for holding in mine),
            )
        return Room(
            machine.name,
            machine.cores,
            machine.cores - sum(holding.cores for holding in held.values()),
            machine.memory,
            machine.memory - sum(holding.memory for holding in held.values()),
            frozenset({"process"}),
            machine.closed,
            dict(machine.labels),
            numa,
            tuple(
                replace(
                    each,
                    external=each.id in machine.external,
                    lost="fell off the bus" if each.id in machine.lost else "",
                )
                for each in machine.devices
            ),
            frozenset(device for holding in held.values() for device in holding.devices),
            held,
        )

    def cluster(self) -> Cluster:
        owners = {
            owner: Use(
                sum(1 for lane, _ in self.running.values() if lane.owner == owner),
                sum(held.cores for lane, held in self.running.values() if lane.owner == owner),
                sum(len(held.devices) for lane, held in self.running.values() if lane.owner == owner),
            )
            for owner in ("ann", "bob")
        }
        batches = Counter(lane.batch[0] for lane, _ in self.running.values() if lane.batch)
        return Cluster(self.rooms(), self.now, self.caps, owners, batches, self.turn)

    def queue(self, tasks: dict[int, Lane]) -> dict[Lane, list[int]]:
        found: dict[Lane, list[int]] = {}
        for task in sorted(tasks):
            found.setdefault(tasks[task], []).append(task)
        return found

    def schedule(self) -> None:
        cluster = self.cluster()
        plan = place(self.queue(self.waiting), cluster)
        assert plan == place(self.queue(self.waiting), cluster), "the same question has the same answer"
        self.check_kept(cluster, plan)
        for placement in plan.placements:
            lane = self.waiting.pop(placement.task)
            limit = lane.shape.limit
            assert could_ever(lane.shape, next(r for r in cluster.rooms if r.name == placement.node)) is None
            assert placement.executor == executor_of(lane.shape, {"process"})
            assert len(placement.devices) == (lane.shape.count or len(lane.shape.gpus))
            self.running[placement.task] = (
                lane,
                Holding(
                    1,
                    placement.node,
                    placement.cores,
                    placement.memory,
                    placement.devices,
                    placement.numa,
                    lane.owner,
                    ends_at=None if limit is None else self.now + limit,
                ),
            )
            machine = self.machines[placement.node]
            assert not machine.closed
            assert not machine.lost & set(placement.devices)
            if not lane.shape.gpus:
                assert not machine.external & set(placement.devices)
        self.turn = plan.turn
        self.check_nothing_idle(plan)
        self.check_promise(plan)

    # What must hold

    @invariant()
    def nothing_is_booked_twice(self) -> None:
        if not hasattr(self, "machines"):
            return
        for room in self.rooms():
            assert room.cores_free >= 0 and room.memory_free >= 0
            assert all(each.cores_free >= 0 and each.memory_free >= 0 for each in room.numa.values())
            devices = [device for held in room.holdings.values() for device in held.devices]
            assert len(devices) == len(set(devices))
        for owner, use in self.cluster().owners.items():
            assert not self.caps.tasks or use.tasks <= self.caps.tasks, owner
            assert not self.caps.cores or use.cores <= self.caps.cores, owner
            assert not self.caps.gpus or use.gpus <= self.caps.gpus, owner
        assert Counter(lane.batch for lane, _ in self.running.values())[1, 2] <= 2

    def check_nothing_idle(self, plan: Plan) -> None:
        """No task waits that fits on a node which keeps room for nobody, but behind others of its lane."""
        reserved = {each.node for each in plan.reservations}
        cluster = self.cluster()
        for task, lane in self.waiting.items():
            if "at a time" in plan.reasons.get(task, "") or any(
                other < task and self.waiting[other] == lane for other in self.waiting
            ):
                continue
            rooms = tuple(room for room in cluster.rooms if room.name not in reserved)
            alone = place({lane: [task]}, replace(cluster, rooms=rooms))
            assert not alone.placements, (task, lane)

    def check_kept(self, cluster: Cluster, plan: Plan) -> None:
        """What younger tasks are given never makes a reservation later, or takes what is kept for it."""
        order = sorted(self.waiting, key=lambda task: (-self.waiting[task].priority, task))
        rooms = {room.name: room for room in cluster.rooms}
        for kept in plan.reservations:
            until = order[: order.index(kept.task) + 1]
            before = place(self.queue({task: self.waiting[task] for task in until}), cluster)
            assert kept in before.reservations, "what comes later changes nothing for those before"
            shape, room = self.waiting[kept.task].shape, rooms[kept.node]
            if kept.at is not None:
                then = self.left(room, plan.placements, kept.at)
                assert then.fits(shape, room) is not None, "there must be room when it was promised"
                continue
            was = self.left(room, before.placements)
            now = self.left(room, plan.placements)
            assert min(now.cores, shape.cores) == min(was.cores, shape.cores)
            assert min(now.memory, shape.memory) == min(was.memory, shape.memory)
            suitable = {each.id for each in named_devices(shape, room) or matching(shape, room)}
            wanted = shape.count or len(shape.gpus)
            assert min(len(now.devices & suitable), wanted) == min(len(was.devices & suitable), wanted)

    def left(self, room: Room, placements: tuple[Placement, ...], until: float | None = None) -> Stock:
        """What is free on a node with these placements: now, or when all that ends by a time has ended."""
        stock = Stock.of(room)
        ids = frozenset(device.id for device in room.devices if not device.lost)
        for held in room.holdings.values():
            if until is not None and held.ends_at is not None and held.ends_at <= until:
                stock.give_back(held, ids)
        for each in placements:
            limit = self.waiting[each.task].shape.limit
            if each.node == room.name and not (
                until is not None and limit is not None and self.now + limit <= until
            ):
                stock.take(each.cores, each.memory, each.numa, each.devices)
        return stock

    def check_promise(self, plan: Plan) -> None:
        """Who is first in line starts when it was told, or sooner."""
        if self.promised is not None:
            task, at = self.promised
            if task in self.waiting:
                assert self.now < at, "it was promised to start by now"
                mine = [each.at for each in plan.reservations if each.task == task]
                assert not mine or (mine[0] is not None and mine[0] <= at), "backfill made it later"
                if not mine:
                    self.promised = None  # a cap of its owner keeps it back now
            else:
                self.promised = None
        first = min(self.waiting, key=lambda task: (-self.waiting[task].priority, task), default=None)
        for each in plan.reservations:
            if each.task == first and each.at is not None and self.promised is None:
                self.promised = first, each.at


LIVES = int(os.environ.get("LIVES", "200"))
"""How many clusters live for 50 events each."""
Life.TestCase.settings = settings(max_examples=LIVES, stateful_step_count=50, deadline=None)
TestLife = Life.TestCase
