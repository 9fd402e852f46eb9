"""What the scheduler promises, for any queue and any nodes."""

from __future__ import annotations

import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from daemons.host.scheduler import NO_NODE, QUEUED, Placement, Plan, Room, Shape, could_ever, place

GIB = 2**30
NAMES = ("n1", "n2", "n3")
Queue = dict[Shape, list[int]]


@st.composite
def rooms(draw: st.DrawFn) -> list[Room]:
    found = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        cores = draw(st.integers(0, 8)) * 1000
        memory = draw(st.integers(0, 8)) * GIB
        gpus = {index: f"{name}-{index}" for index in range(draw(st.integers(0, 3)))}
        found.append(
            Room(
                name,
                cores,
                draw(st.integers(-1000, cores)),
                memory,
                draw(st.integers(-GIB, memory)),
                frozenset(draw(st.sets(st.sampled_from(("process", "docker"))))),
                draw(st.sampled_from(("", "", f"{name} is unreachable"))),
                frozenset(range(draw(st.integers(0, 2)))),
                gpus,
                frozenset(draw(st.sets(st.sampled_from(sorted(gpus.values()))) if gpus else st.just(set()))),
                draw(st.integers(0, 3)),
            )
        )
    return found


shapes = st.builds(
    Shape,
    st.sampled_from((None, None, *NAMES)),
    st.sampled_from((None, None, 0, 1)),
    st.sampled_from(((), (), (0,), (0, 1))),
    st.sampled_from((0, 1, 500, 1000, 2000, 8000)),
    st.sampled_from((0, 0, GIB, 4 * GIB)),
    st.sampled_from(("process", "docker")),
)


@st.composite
def queues(draw: st.DrawFn) -> Queue:
    found: Queue = {}
    for number, shape in enumerate(draw(st.lists(shapes, max_size=30)), start=1):
        found.setdefault(shape, []).append(number)
    return found


def shape_of(queue: Queue) -> dict[int, Shape]:
    return {task: shape for shape, tasks in queue.items() for task in tasks}


@given(queues(), rooms())
def test_no_node_is_ever_over_booked(queue: Queue, nodes: list[Room]) -> None:
    plan = place(queue, nodes)
    for room in nodes:
        mine = [each for each in plan.placements if each.node == room.name]
        if not mine:
            continue
        assert not room.closed
        assert sum(each.cores for each in mine) <= max(0, room.cores_free)
        assert sum(each.memory for each in mine) <= max(0, room.memory_free)
        devices = [device for each in mine for device in each.devices]
        assert len(devices) == len(set(devices))
        assert not set(devices) & room.devices_used
        assert set(devices) <= set(room.gpus.values())


@given(queues(), rooms())
def test_every_placement_is_what_was_asked_for_where_it_was_asked_for(
    queue: Queue, nodes: list[Room]
) -> None:
    by_name = {room.name: room for room in nodes}
    asked = shape_of(queue)
    placed = place(queue, nodes).placements
    assert not [task for task, times in Counter(each.task for each in placed).items() if times > 1]
    for each in placed:
        shape = asked[each.task]
        assert (each.cores, each.memory, each.gpus, each.numa) == (
            shape.cores,
            shape.memory,
            shape.gpus,
            shape.numa,
        )
        assert could_ever(shape, by_name[each.node]) is None


@given(queues(), rooms())
def test_no_task_is_overtaken_on_a_node_that_it_could_use(queue: Queue, nodes: list[Room]) -> None:
    plan = place(queue, nodes)
    asked = shape_of(queue)
    placed = {each.task: each.node for each in plan.placements}
    for task, shape in asked.items():
        if task in placed:
            continue
        usable = {room.name for room in nodes if could_ever(shape, room) is None}
        younger = {node for other, node in placed.items() if other > task}
        assert not usable & younger


@given(queues(), rooms())
def test_a_task_that_waits_could_not_have_been_placed_as_well(queue: Queue, nodes: list[Room]) -> None:
    """Room is left unused only where an older task waits for it."""
    plan = place(queue, nodes)
    asked = shape_of(queue)
    placed = {each.task for each in plan.placements}
    waiting = sorted(set(asked) - placed)
    left = [_after(room, plan.placements) for room in nodes]
    for task in waiting:
        older = [asked[each] for each in waiting if each < task]
        for room in left:
            if any(could_ever(shape, room) is None for shape in older):
                continue
            alone = place({asked[task]: [task]}, [room])
            assert not alone.placements


@given(queues(), rooms())
def test_reasons_are_given_to_waiting_tasks_only_and_stay_the_same(queue: Queue, nodes: list[Room]) -> None:
    plan = place(queue, nodes)
    asked = shape_of(queue)
    waiting = set(asked) - {each.task for each in plan.placements}
    assert set(plan.reasons) <= waiting
    assert all(reason and reason != QUEUED and reason.isprintable() for reason in plan.reasons.values())
    if waiting:
        assert min(waiting) in plan.reasons
    assert place(queue, nodes) == plan


@given(queues(), rooms(), st.integers(1, 5))
def test_a_pass_that_stops_early_asks_for_another_and_ends_the_same(
    queue: Queue, nodes: list[Room], limit: int
) -> None:
    whole = place(queue, nodes, 1000)
    placements: list[Placement] = []
    rest, free = queue, nodes
    while True:
        part = place(rest, free, limit)
        placements.extend(part.placements)
        taken = {each.task for each in part.placements}
        rest = {shape: [task for task in tasks if task not in taken] for shape, tasks in rest.items()}
        free = [_after(room, part.placements) for room in free]
        if not part.more:
            break
        assert len(part.placements) == limit
    assert tuple(placements) == whole.placements


def _after(room: Room, placements: tuple[Placement, ...]) -> Room:
    mine = [each for each in placements if each.node == room.name]
    return Room(
        room.name,
        room.cores,
        room.cores_free - sum(each.cores for each in mine),
        room.memory,
        room.memory_free - sum(each.memory for each in mine),
        room.executors,
        room.closed,
        room.numa,
        room.gpus,
        room.devices_used | {device for each in mine for device in each.devices},
        room.tasks + len(mine),
    )


def node(
    name: str, cores: int, free: int, *, closed: str = "", memory: int = 8, memory_free: int = 8
) -> Room:
    executors = frozenset({"process"})
    return Room(name, cores * 1000, free * 1000, memory * GIB, memory_free * GIB, executors, closed)


def ask(cores: float = 1, *, where: str | None = None, memory: int = 0, executor: str = "process") -> Shape:
    return Shape(where, None, (), round(cores * 1000), memory * GIB, executor)


def only(plan: Plan) -> str:
    assert not plan.placements
    (reason,) = plan.reasons.values()
    return reason


def test_reasons_read_like_sentences() -> None:
    assert only(place({ask(): [1]}, [node("n1", 2, 0)])) == "waiting for 1 core on n1 (0 of 2 free)"
    assert only(place({ask(0.5): [1]}, [node("n1", 2, 0)])) == "waiting for 0.5 cores on n1 (0 of 2 free)"
    assert only(place({ask(): [1]}, [])) == NO_NODE
    assert (
        only(place({ask(where="n1"): [1]}, [node("n1", 2, 2, closed="n1 is drained")]))
        == "waiting: n1 is drained"
    )
    full = node("n1", 2, 2, memory_free=1)
    assert only(place({ask(memory=4): [1]}, [full])) == "waiting for 4.3G of memory on n1 (1.1G of 8.6G free)"
    assert only(place({ask(8): [1]}, [node("n1", 2, 2)])) == "no node can run it: n1 has 2 cores, not 8"
    assert only(place({ask(where="n9"): [1]}, [node("n1", 2, 2)])) == "there is no node n9"
    assert (
        only(place({ask(2): [1]}, [node("n1", 4, 1), node("n2", 4, 0)]))
        == "waiting for 2 cores on one of 2 nodes (most free: n1 with 1 core and 8.6G)"
    )


def test_the_emptiest_node_is_chosen() -> None:
    plan = place({ask(): [1, 2, 3]}, [node("n1", 8, 2), node("n2", 8, 3)])
    assert [each.node for each in plan.placements] == ["n2", "n1", "n2"]


def test_a_hundred_thousand_waiting_tasks_cost_next_to_nothing() -> None:
    queue = {ask(number / 1000): list(range(number, 100_000, 100)) for number in range(1, 101)}
    nodes = [node(f"n{number}", 64, 0) for number in range(20)]
    few = {shape: ids[:1] for shape, ids in queue.items()}

    def cost(waiting: dict[Shape, list[int]]) -> float:
        started = time.process_time()
        for _ in range(20):
            place(waiting, nodes)
        return time.process_time() - started

    assert min(cost(queue) for _ in range(3)) < 5 * max(cost(few) for _ in range(3)), "a pass looks at shapes"
