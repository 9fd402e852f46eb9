"""Who gets which place, who keeps whom from it, and what the others are told. ``test_simulation`` is for the
promises that hold whatever happens."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from daemons.host.scheduling.explain import prospects
from daemons.host.scheduling.model import (
    NO_NODE,
    QUEUED,
    Caps,
    Cluster,
    Device,
    Holding,
    Lane,
    NumaRoom,
    Placement,
    Plan,
    Reservation,
    Room,
    Shape,
    Use,
)
from daemons.host.scheduling.passes import place
from daemons.host.scheduling.words import could_ever, largest

GIB = 2**30
NOW = 1000.0


def node(
    name: str = "n1",
    cores: int = 4,
    *held: Holding,
    gpus: str = "",
    numa: int = 0,
    memory: int = 8,
    closed: str = "",
    executors: str = "process",
    labels: str = "",
) -> Room:
    """A node with what is held there; ``gpus`` has a letter for each: ``a`` A100 80G, ``l`` L4 24G, capitals
    are used by others, ``x`` is lost. NUMA nodes share CPUs, memory and GPUs evenly."""
    kinds = {"a": ("NVIDIA A100", 80), "l": ("NVIDIA L4", 24), "x": ("NVIDIA A100", 80)}
    per_numa = max(1, len(gpus) // numa) if numa else 1
    devices = tuple(
        Device(
            f"{name}/{index}",
            index,
            *(kinds[kind.lower()][0], kinds[kind.lower()][1] * GIB),
            index // per_numa if numa else None,
            kind.isupper(),
            "GPU is lost" if kind == "x" else "",
        )
        for index, kind in enumerate(gpus)
    )
    bound = {
        each: NumaRoom(
            cores * 1000 // numa,
            cores * 1000 // numa - sum(one.cores for one in held if one.numa == each),
            memory * GIB // numa,
            memory * GIB // numa - sum(one.memory for one in held if one.numa == each),
        )
        for each in range(numa)
    }
    return Room(
        name,
        cores * 1000,
        cores * 1000 - sum(each.cores for each in held),
        memory * GIB,
        memory * GIB - sum(each.memory for each in held),
        frozenset(executors.split()),
        closed,
        dict(pair.split("=") for pair in labels.split()),
        bound,
        devices,
        frozenset(device for each in held for device in each.devices),
        {100 + number: each for number, each in enumerate(held)},
    )


def held(
    cores: float = 0, *devices: str, ends: float | None = None, numa: int | None = None, memory: int = 0
) -> Holding:
    ends_at = None if ends is None else NOW + ends
    return Holding(1, "", round(cores * 1000), memory * GIB, devices, numa, ends_at=ends_at)


def ask(
    cores: float = 1,
    *,
    where: str | None = None,
    numa: int | None = None,
    gpus: tuple[int, ...] = (),
    count: int = 0,
    model: str = "",
    gpu_memory: int = 0,
    memory: int = 0,
    executor: str = "process",
    limit: float | None = None,
    placement: str = "spread",
    labels: str = "",
) -> Shape:
    pairs = tuple((key, value) for pair in labels.split() for key, _, value in [pair.partition("=")])
    return Shape(
        where,
        numa,
        gpus,
        round(cores * 1000),
        memory * GIB,
        executor,
        count,
        model,
        gpu_memory * GIB,
        pairs,
        placement,
        limit,
    )


def plan(*asked: Shape | Lane, on: Room | list[Room], **rest: object) -> Plan:
    """A pass over tasks 1, 2, …"""
    queue: dict[Lane, list[int]] = {}
    for number, each in enumerate(asked, start=1):
        queue.setdefault(each if isinstance(each, Lane) else Lane(each), []).append(number)
    rooms = tuple([on] if isinstance(on, Room) else on)
    return place(queue, Cluster(rooms, NOW, **rest))  # type: ignore[arg-type]


def placed(found: Plan) -> dict[int, Placement]:
    return {each.task: each for each in found.placements}


def why(found: Plan, task: int = 1) -> str:
    assert task not in placed(found)
    return found.reasons.get(task, QUEUED)


# Order


def test_first_in_first_out_and_higher_priority_first() -> None:
    found = plan(ask(), ask(), ask(), on=node(cores=2))
    assert list(placed(found)) == [1, 2]
    found = plan(ask(), ask(), Lane(ask(), priority=1), on=node(cores=2))
    assert list(placed(found)) == [3, 1]
    found = plan(Lane(ask(), priority=-1), ask(), on=node(cores=1))
    assert list(placed(found)) == [2]


def test_tasks_of_one_shape_keep_their_order_whoever_owns_them() -> None:
    found = plan(Lane(ask(), "bob"), Lane(ask(), "ann"), Lane(ask(), "bob"), on=node(cores=2))
    assert list(placed(found)) == [1, 2]


# Reservations and backfill


def test_what_is_free_is_kept_for_the_first_that_waits() -> None:
    found = plan(ask(4), ask(1), on=node("n1", 4, held(2)))
    assert not found.placements
    assert found.reservations == (Reservation(1, "n1", None),)
    assert why(found, 2) == "waiting behind task 1, for which n1 keeps room"


def test_backfill_takes_what_is_given_back_in_time() -> None:
    there = node("n1", 4, held(3, ends=60))
    found = plan(ask(4), ask(1, limit=50), on=there)
    assert list(placed(found)) == [2]
    assert found.reservations == (Reservation(1, "n1", NOW + 60),)
    assert not plan(ask(4), ask(1, limit=70), on=there).placements
    assert not plan(ask(4), ask(1), on=there).placements


def test_backfill_takes_what_will_not_be_needed() -> None:
    there = node("n1", 6, held(3, ends=60))
    found = plan(ask(4), ask(1), ask(1), ask(1), on=there)
    assert list(placed(found)) == [2, 3], "6 − 4 cores are for anybody"
    there = node("n1", 4, held(1, "n1/0"), gpus="a")
    found = plan(ask(1, count=1), ask(2), ask(1), on=there)
    assert list(placed(found)) == [2], "a task that waits for a GPU keeps its core, and no more"


def test_devices_are_kept_too() -> None:
    there = node("n1", 8, held(1, "n1/0"), gpus="aa")
    found = plan(ask(1, count=2), ask(1, count=1), ask(1, gpus=(1,), where="n1"), ask(1), on=there)
    assert list(placed(found)) == [4]


def test_a_pinned_task_blocks_its_node_only() -> None:
    rooms = [node("n1", 2, held(2)), node("n2", 2)]
    found = plan(ask(1, where="n1"), ask(1), ask(1), ask(1), on=rooms)
    assert {task: each.node for task, each in placed(found).items()} == {2: "n2", 3: "n2"}
    assert [(each.task, each.node) for each in found.reservations] == [(1, "n1"), (4, "n2")]


def test_one_reservation_for_tasks_that_want_the_same_nodes() -> None:
    rooms = [node("n1", 4, held(2)), node("n2", 4, held(3))]
    found = plan(ask(4), ask(3), ask(1), on=rooms)
    assert [(each.task, each.node) for each in found.reservations] == [(1, "n1")], "the nearest to enough"
    assert {task: each.node for task, each in placed(found).items()} == {3: "n2"}


def test_the_reservation_is_where_it_is_soonest() -> None:
    rooms = [node("n1", 4, held(4, ends=90)), node("n2", 4, held(4, ends=30)), node("n3", 4, held(4))]
    assert plan(ask(2), on=rooms).reservations == (Reservation(1, "n2", NOW + 30),)


def test_closed_nodes_keep_no_room() -> None:
    rooms = [node("n1", 4, closed="n1 is unreachable"), node("n2", 4)]
    found = plan(ask(1, where="n1"), ask(4), on=rooms)
    assert placed(found)[2].node == "n2"
    assert why(found) == "waiting: n1 is unreachable"
    assert not found.reservations


def test_who_waits_for_a_lost_gpu_keeps_nobody_waiting() -> None:
    found = plan(ask(1, gpus=(0,), where="n1"), ask(1), on=node("n1", 1, gpus="x"))
    assert list(placed(found)) == [2]
    assert why(found) == "waiting for GPU 0 of n1: GPU is lost"


# Devices


def test_gpus_by_count_model_and_memory() -> None:
    there = node("n1", 8, gpus="lala")
    assert placed(plan(ask(count=2, model="a100"), on=there))[1].gpus == (1, 3)
    assert placed(plan(ask(count=1, gpu_memory=40), on=there))[1].gpus == (1,)
    assert placed(plan(ask(count=1), on=there))[1].gpus == (0,), "the smallest that will do"
    assert placed(plan(ask(count=2), on=there))[1].devices == ("n1/0", "n1/2")


def test_gpus_of_one_numa_node_where_one_has_enough() -> None:
    there = node("n1", 8, held(1, "n1/0"), gpus="aaaa", numa=2)
    assert placed(plan(ask(count=2), on=there))[1].gpus == (2, 3)
    assert placed(plan(ask(count=1), on=there))[1].gpus == (1,), "what is left over first"
    assert placed(plan(ask(count=3), on=there))[1].gpus == (1, 2, 3)
    assert placed(plan(ask(count=1, where="n1", numa=1), on=there))[1].gpus == (2,)
    there = node("n1", 8, gpus="aall", numa=2)
    assert placed(plan(ask(count=1), on=there))[1].gpus == (2,), "a small one, also of the other NUMA node"
    assert placed(plan(ask(count=2), on=there))[1].gpus == (2, 3)


def test_what_others_use_is_given_to_those_only_who_name_it() -> None:
    there = node("n1", 8, gpus="Aa")
    found = plan(ask(count=1), ask(count=1), ask(gpus=(0,), where="n1"), on=there)
    assert {task: each.gpus for task, each in placed(found).items()} == {1: (1,), 3: (0,)}
    assert why(found, 2) == "waiting for 1 GPU on n1 (0 of 2 free, 1 used by others)"


def test_a_lost_gpu_is_given_to_nobody() -> None:
    found = plan(ask(count=2), ask(gpus=(0,), where="n1"), on=node("n1", 8, gpus="xa"))
    assert not found.placements
    assert why(found) == "waiting for 2 GPUs on n1 (1 of 2 free, 1 lost)"


def test_a_gpu_is_given_once() -> None:
    found = plan(ask(gpus=(0,), where="n1"), ask(gpus=(0,), where="n1"), on=node("n1", 8, gpus="a"))
    assert list(placed(found)) == [1]
    assert why(found, 2) == "waiting for GPU 0 on n1 (in use)"


# NUMA


def test_a_numa_node_is_not_over_booked() -> None:
    there = node("n1", 8, held(3, numa=0), numa=2)
    found = plan(ask(2, where="n1", numa=0), on=there)
    assert why(found) == "waiting for 2 cores on NUMA node 0 of n1 (1 of 4 free)"
    assert placed(plan(ask(2, where="n1", numa=1), on=there))[1].numa == 1
    full = node("n1", 8, held(0, numa=1, memory=3), numa=2)
    found = plan(ask(0, where="n1", numa=1, memory=2), on=full)
    assert why(found) == "waiting for 2.1G of memory on NUMA node 1 of n1 (1.1G of 4.3G free)"


# Where


def test_cpu_tasks_spread_and_gpu_tasks_pack() -> None:
    rooms = [node("n1", 8, held(6)), node("n2", 8, held(5))]
    assert [each.node for each in plan(ask(), ask(), ask(), on=rooms).placements] == ["n2", "n1", "n2"]
    rooms = [node("n1", 8, gpus="aaaa"), node("n2", 8, held(1, "n2/0", "n2/1"), gpus="aaaa")]
    assert [each.node for each in plan(ask(count=1, placement="pack"), on=rooms).placements] == ["n2"]


def test_round_robin_goes_on_where_it_stopped() -> None:
    rooms = [node(name) for name in ("n1", "n2", "n3")]
    found = plan(*[ask(placement="round-robin")] * 4, on=rooms, turn="n2")
    assert [each.node for each in found.placements] == ["n3", "n1", "n2", "n3"]
    assert found.turn == "n3"


def test_labels_and_executors() -> None:
    rooms = [node("n1", labels="disk=ssd net=ib"), node("n2", labels="disk=hdd", executors="process systemd")]
    assert placed(plan(ask(labels="disk=hdd"), on=rooms))[1].node == "n2"
    assert placed(plan(ask(executor="native", where="n1"), on=rooms))[1].executor == "process"
    assert placed(plan(ask(executor="native", where="n2"), on=rooms))[1].executor == "systemd"
    assert could_ever(ask(labels="disk=ssd net=ib"), rooms[1]) == "n2 has no label disk=ssd, net=ib"


# Limits of owners and batches


def test_an_owner_at_the_cap_keeps_nobody_waiting() -> None:
    mine, other = Lane(ask(), "ann"), Lane(ask(), "bob")
    found = plan(mine, mine, other, on=node("n1", 2), caps=Caps(tasks=1))
    assert list(placed(found)) == [1, 3]
    assert why(found, 2) == "waiting: ann may run 1 task at a time"
    assert not found.reservations
    found = plan(mine, other, on=node("n1", 4), caps=Caps(cores=2000), owners={"ann": Use(1, 1500, 0)})
    assert why(found) == "waiting: ann may have 2 cores at a time and has 1.5"
    gpu = Lane(ask(count=2), "ann")
    found = plan(gpu, on=node("n1", gpus="aaaa"), caps=Caps(gpus=2), owners={"ann": Use(1, 0, 1)})
    assert why(found) == "waiting: ann may have 2 GPUs at a time and has 1"


def test_a_batch_runs_so_many_at_a_time() -> None:
    lane = Lane(ask(), batch=(7, 2))
    found = plan(lane, lane, lane, ask(), on=node("n1", 4), batches={7: 1})
    assert list(placed(found)) == [1, 4]
    assert why(found, 2) == "waiting: batch 7 runs 2 at a time"


# Words


@pytest.mark.parametrize(
    ("asked", "there", "text"),
    [
        (ask(), [node("n1", 2, held(2))], "waiting for 1 core on n1 (0 of 2 free)"),
        (ask(0.5), [node("n1", 2, held(2))], "waiting for 0.5 cores on n1 (0 of 2 free)"),
        (ask(), [], NO_NODE),
        (ask(where="n1"), [node("n1", 2, closed="n1 is drained")], "waiting: n1 is drained"),
        (
            ask(memory=4),
            [node("n1", 2, held(memory=7))],
            "waiting for 4.3G of memory on n1 (1.1G of 8.6G free)",
        ),
        (ask(8), [node("n1", 2)], "no node can run it: n1 has 2 cores, not 8"),
        (ask(where="n9"), [node("n1", 2)], "there is no node n9"),
        (
            ask(2),
            [node("n1", 4, held(3)), node("n2", 4, held(4))],
            "waiting for 2 cores on one of 2 nodes (most free: n1 with 1 core and 8.6G)",
        ),
        (
            ask(count=2, model="A100"),
            [node("n1", 4, held(1, "n1/0"), gpus="aa"), node("n2", 4, held(0, "n2/0", "n2/1"), gpus="aa")],
            "waiting for 1 core and 2 GPUs A100 on one of 2 nodes"
            " (most free: n1 with 1 GPU A100, 3 cores and 8.6G)",
        ),
    ],
)
def test_reasons_read_like_sentences(asked: Shape, there: list[Room], text: str) -> None:
    assert why(plan(asked, on=there)) == text


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (ask(where="n1", numa=2), "n1 has no NUMA node 2 (it has 0, 1)"),
        (ask(where="n1", gpus=(1, 9)), "n1 has no GPU 9 (it has 0–3)"),
        (ask(where="n1", gpus=(0,), numa=1), "GPU 0 of n1 is on NUMA node 0, not 1"),
        (ask(where="n1", numa=0, cores=3), "NUMA node 0 of n1 has 2 cores, not 3"),
        (ask(where="n1", numa=0, memory=5), "NUMA node 0 of n1 has 4.3G of memory, not 5.4G"),
        (ask(count=5), "n1 has 4 GPUs, not 5"),
        (ask(count=3, model="a100"), "n1 has 2 GPUs a100, not 3"),
        (ask(count=1, gpu_memory=90), "n1 has no GPUs with 97G, not 1"),
        (ask(executor="docker"), "n1 has no executor docker"),
    ],
)
def test_what_a_node_can_never_do(asked: Shape, text: str) -> None:
    assert could_ever(asked, node("n1", 4, gpus="alal", numa=2)) == text


def test_what_no_node_can_do() -> None:
    rooms = [node("n1", 4, gpus="aa"), node("n2", 8)]
    assert largest(ask(count=4), rooms) == "no node has 4 GPUs (n1 has the most, 2)"
    assert largest(ask(count=1, model="h100"), rooms) == "no node has 1 GPU h100 (none has any)"
    assert largest(ask(9), rooms) == "no node can take 9 cores (the largest is n2 with 8 cores and 8.6G)"


def test_explain_says_whose_end_would_make_the_room() -> None:
    rooms = (
        node("n1", 4, held(1, ends=500), held(2, ends=50), held(1)),
        node("n2", 4, held(4)),
        node("n3", 1),
        node("n4", 4, closed="n4 is drained (disk)"),
        node("n5", 4),
    )
    kept = [(Reservation(9, "n5", None), ask(4))]
    found = {each.node: each for each in prospects(ask(2), Cluster(rooms, NOW), kept)}
    assert found["n1"].tasks == (101,) and found["n1"].at == NOW + 50
    assert found["n2"].tasks == (100,) and found["n2"].at is None
    assert found["n2"].why == "needs 2 cores on n2 (0 of 4 free)"
    assert (found["n3"].fits, found["n3"].why) == (False, "n3 has 1 core, not 2")
    assert found["n4"].why == "n4 is drained (disk)"
    assert found["n5"].why == "its room is kept for task 9"
    assert next(iter(found)) == "n1", "the soonest first"
    assert prospects(ask(2), Cluster(rooms, NOW), [])[0].fits


def test_explain_promises_nobody_the_room_of_another() -> None:
    rooms = (node("n1", 4, held(4, ends=50)),)
    first = Reservation(9, "n1", NOW + 50)

    def waits(shape: Shape, keeper: Shape) -> tuple[bool, tuple[int, ...], float | None]:
        (found,) = prospects(shape, Cluster(rooms, NOW), [(first, keeper)])
        return found.fits, found.tasks, found.at

    assert waits(ask(2), ask(4)) == (False, (100, 9), None)
    assert waits(ask(2), ask(2)) == (False, (100,), NOW + 50), "there will be room for both"
    assert waits(ask(0), ask(4)) == (True, (), None), "it takes nothing away"


# Cost


def test_a_hundred_thousand_waiting_tasks_cost_next_to_nothing() -> None:
    queue = {Lane(ask(number / 1000)): list(range(number, 100_000, 100)) for number in range(1, 101)}
    cluster = Cluster(tuple(node(f"n{number}", 64, held(64)) for number in range(20)))
    few = {lane: ids[:1] for lane, ids in queue.items()}

    def cost(waiting: dict[Lane, list[int]]) -> float:
        started = time.process_time()
        for _ in range(20):
            place(waiting, cluster)
        return time.process_time() - started

    assert min(cost(queue) for _ in range(3)) < 5 * max(cost(few) for _ in range(3)), "a pass looks at lanes"


def test_a_pass_that_stops_early_asks_for_another_and_ends_the_same() -> None:
    queue = {Lane(ask(1)): [1, 3, 5, 7], Lane(ask(2)): [2, 4, 6]}
    room = node("n1", 9)
    whole = place(queue, Cluster((room,), NOW))
    assert not whole.more
    found: list[Placement] = []
    while True:
        part = place(queue, Cluster((room,), NOW), limit=2)
        found += part.placements
        taken = {each.task for each in part.placements}
        queue = {lane: [task for task in tasks if task not in taken] for lane, tasks in queue.items()}
        room = replace(room, cores_free=room.cores_free - sum(each.cores for each in part.placements))
        if not part.more:
            break
    assert tuple(found) == whole.placements
