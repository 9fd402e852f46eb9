"""What tasks may ask of their turn: priority, other tasks first, a second try, a hold, a share of a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daemons.host.lanes import SLACK
from hakuriver.errors import CannotFit, Conflict, NotFound, UsageError
from hakuriver.paths import HEADER_IDEMPOTENCY, host_path
from tests.api.conftest import Running, running_host
from tests.api.peer import Peer, eventually

GPU = {"uuid": "GPU-0", "index": 0, "model": "NVIDIA A100", "memory": 80 * 2**30}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Running]:
    """A host that gives nodes a long time, so that they need no heartbeat here."""
    async with running_host(tmp_path, flags={"timing.heartbeat_interval": 30.0}) as made:
        yield made


def gpus(*models: str) -> list[dict[str, object]]:
    return [
        GPU | {"uuid": f"GPU-{number}", "index": number, "model": model}
        for number, model in enumerate(models)
    ]


async def ends(peer: Peer, number: int, state: str = "completed", attempt: int = 1, **facts: object) -> None:
    """A task was ordered, ran, and has ended."""
    key = (number, attempt)
    await eventually(lambda: key in peer.orders)
    await peer.report(key, "running")
    peer.ended.add(key)
    await peer.report(key, state, **facts)


async def test_priority_comes_before_age(api: Running) -> None:
    peer = await api.peer("n1", cores=1)
    first = await api.submit("true")
    await eventually(lambda: (first["id"], 1) in peer.orders)
    low, normal, high = [await api.submit("true", priority=each) for each in (-5, 0, 5)]
    assert (high["priority"], low["priority"]) == (5, -5)
    for each in (first, high, normal, low):
        await ends(peer, each["id"])
    assert [key[0] for key in peer.puts] == [first["id"], high["id"], normal["id"], low["id"]]


async def test_a_failure_is_tried_again_and_every_attempt_is_kept(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.submit("flaky", retries=2)
    await ends(peer, made["id"], "failed", exit_code=3, reason="exit code 3")
    again = await api.until(made["id"], attempt=2)
    assert (again["state"], again["retried"], again["exit_code"]) in (
        ("pending", 1, None),
        ("assigned", 1, None),
    )
    await ends(peer, made["id"], "killed_oom", 2, exit_code=137)
    await ends(peer, made["id"], "failed", 3, exit_code=4)
    done = await api.task(made["id"])
    assert (done["state"], done["attempt"], done["exit_code"]) == ("failed", 3, 4)
    assert [(each["state"], each["exit_code"]) for each in done["attempts"]] == [
        ("failed", 3),
        ("killed_oom", 137),
        ("failed", 4),
    ]
    assert len(peer.puts) == 3


async def test_what_completed_or_was_killed_is_not_tried_again(api: Running) -> None:
    peer = await api.peer("n1", cores=8)
    good, killed, raced = [await api.submit("true", retries=5) for _ in range(3)]
    await ends(peer, good["id"])
    await ends(peer, killed["id"], "killed")
    await eventually(lambda: (raced["id"], 1) in peer.orders)
    await api.tell(raced["id"], "kill")
    await ends(peer, raced["id"], "failed", exit_code=1)
    states = [(await api.task(each["id"]))["state"] for each in (good, killed, raced)]
    assert states == ["completed", "killed", "failed"]
    assert [(await api.task(each["id"]))["attempt"] for each in (good, killed, raced)] == [1, 1, 1]


async def test_what_a_node_lost_goes_on_as_it_should(api: Running) -> None:
    peer = await api.peer("n1", cores=8)
    why = "node_rebooted: the machine was restarted while it ran"
    retried, moved, failed, kept, killed = [
        (await api.submit("a", **asked))["id"]
        for asked in (
            {"retries": 1},
            {"on_node_loss": "requeue"},
            {"on_node_loss": "fail"},
            {},
            {"on_node_loss": "requeue"},
        )
    ]
    await eventually(lambda: (killed, 1) in peer.orders)
    await api.tell(killed, "kill")
    for each in (retried, moved, failed, kept, killed):
        await ends(peer, each, "lost", reason=why)
    await eventually(lambda: (retried, 2) in peer.orders and (moved, 2) in peer.orders)
    shown = [await api.task(each) for each in (retried, moved, failed, kept)]
    assert [each["retried"] for each in shown] == [1, 0, 0, 0]
    assert [each["state"] for each in shown[2:]] == ["failed", "lost"]
    assert shown[2]["reason"] == f"lost on n1: {why}"
    assert (await api.task(killed))["state"] == "killed", "its end was asked for, and it has ended"


async def test_what_nobody_can_account_for_is_not_tried_again(api: Running) -> None:
    """It may still run."""
    peer = await api.peer("n1")
    made = await api.submit("true", retries=1, on_node_loss="requeue")
    await eventually(lambda: (made["id"], 1) in peer.orders)

    async def forgotten() -> bool:
        await peer.heartbeat([])
        return str((await api.task(made["id"]))["state"]) == "lost"

    await eventually(forgotten)
    assert (await api.task(made["id"]))["attempt"] == 1


async def test_after_waits_for_all_to_complete(api: Running) -> None:
    peer = await api.peer("n1", cores=8)
    one, two = await api.submit("a"), await api.submit("b")
    then = await api.submit("c", after=[one["id"], two["id"], one["id"]])
    assert then["after"] == [one["id"], two["id"]]
    assert then["reason"] == f"waiting for the end of {one['id']}, {two['id']}"
    await ends(peer, one["id"])
    await api.until(then["id"], reason=f"waiting for the end of {two['id']}")
    assert (then["id"], 1) not in peer.orders
    await ends(peer, two["id"])
    await eventually(lambda: (then["id"], 1) in peer.orders)
    later = await api.submit("d", after=[one["id"]])
    await eventually(lambda: (later["id"], 1) in peer.orders)


async def test_what_can_not_follow_any_more_has_failed_and_says_why(api: Running) -> None:
    peer = await api.peer("n1", cores=8)
    first = await api.submit("a")
    second = await api.submit("b", after=[first["id"]])
    third = await api.submit("c", after=[second["id"]])
    await ends(peer, first["id"], "failed", exit_code=1)
    for number, needs in ((second["id"], first["id"]), (third["id"], second["id"])):
        ended = await api.until(number, state="failed")
        assert ended["reason"] == f"task {needs} ended as failed, and this was to start after it"
    with pytest.raises(Conflict, match=f"task {first['id']} has ended as failed"):
        await api.submit("d", after=[first["id"]])
    with pytest.raises(NotFound, match="there is no task 999 to start after"):
        await api.submit("d", after=[999])


async def test_what_ended_while_the_host_was_away_is_settled(tmp_path: Path) -> None:
    async with running_host(tmp_path) as first:
        made = await first.submit("a", hold=True)
        then = await first.submit("b", after=[made["id"]])
        first.host.dependencies.consider = lambda row: None  # type: ignore[method-assign]  # it dies just here
        await first.tell(made["id"], "kill")
        assert (await first.task(then["id"]))["state"] == "pending"
    async with running_host(tmp_path) as again:
        assert (await again.until(then["id"], state="failed"))["reason"].startswith("task")


async def test_a_held_task_waits_for_its_release(api: Running) -> None:
    peer = await api.peer("n1")
    held = await api.submit("a", hold=True)
    assert (held["on_hold"], held["reason"]) == (True, f"held by {held['owner']}")
    other = await api.submit("b")
    await eventually(lambda: (other["id"], 1) in peer.orders)
    assert (held["id"], 1) not in peer.orders
    blocked = await api.submit("c", cores=2)
    await api.tell_all([blocked["id"]], "hold")
    await ends(peer, other["id"])
    assert (await api.task(blocked["id"]))["on_hold"] is True
    with pytest.raises(Conflict, match="has ended"):
        await api.tell_all([other["id"]], "hold")
    await api.tell_all([held["id"], blocked["id"]], "release")
    await eventually(lambda: (held["id"], 1) in peer.orders)
    with pytest.raises(Conflict, match="does not wait any more"):
        await api.tell_all([held["id"]], "hold")


async def test_a_sweep_is_one_batch_that_runs_so_many_at_a_time(api: Running) -> None:
    peer = await api.peer("n1", cores=8)
    made = await api.submit_all(
        "train", "--lr=span:[0.1,0.01]", "--seed=span:{1..3}", sweep=True, max_running=2, cores=1
    )
    assert [each["command"] for each in made["tasks"]] == [
        ["train", f"--lr={rate}", f"--seed={seed}"] for rate in ("0.1", "0.01") for seed in (1, 2, 3)
    ]
    assert [(each["batch_index"], each["batch_size"]) for each in made["tasks"]] == [(n, 6) for n in range(6)]
    await eventually(lambda: len(peer.orders) == 2)
    await api.until(made["tasks"][2]["id"], reason=f"waiting: batch {made['batch']} runs 2 at a time")
    last = await api.user.request("GET", host_path("explain", id=made["tasks"][5]["id"]))
    assert last["reason"] == f"waiting: batch {made['batch']} runs 2 at a time"
    first = made["tasks"][0]["id"]
    assert (peer.orders[first, 1].spec.batch_index, peer.orders[first, 1].spec.batch_size) == (0, 6)
    await ends(peer, first)
    await eventually(lambda: len(peer.orders) == 3)
    view = await api.user.request("GET", host_path("batch", id=made["batch"]))
    assert view["size"] == 6 and view["max_running"] == 2
    assert sum(view["states"].values()) == 6 and view["states"]["completed"] == 1
    with pytest.raises(NotFound, match="no batch 999"):
        await api.user.request("GET", host_path("batch", id=999))
    with pytest.raises(UsageError, match="no span"):
        await api.submit("train", sweep=True)


async def test_a_batch_is_no_larger_than_what_the_host_can_keep(api: Running) -> None:
    await api.peer("n1")
    long = "x" * 10_000
    for text, asked in (
        ("more than 64M", {"sweep": True, "command": [long, "span:{1..9999}"]}),
        ("more than 64M", {"sweep": True, "command": ["a", "span:{1..9999}"], "env": {"LONG": long}}),
        ("more than 64M", {"command": [long], "targets": ["n1"] * 9999}),
        ("the most is 10000", {"sweep": True, "command": ["a", "span:{1..5001}"], "targets": ["n1", "n1"]}),
        ("too many", {"sweep": True, "command": ["a", "span:{1..5001}"], "after": list(range(1, 30))}),
    ):
        with pytest.raises(UsageError, match=text):
            await api.user.request("POST", host_path("submit"), body=asked)


async def test_gpus_by_count_and_what_others_use(api: Running) -> None:
    peer = await api.peer("n1", cores=8, gpus=gpus("NVIDIA L4", "NVIDIA A100", "NVIDIA A100"))
    made = await api.submit("a", gpu_count=1, gpu_model="a100", cores=1)
    await eventually(lambda: (made["id"], 1) in peer.orders)
    assert (await api.task(made["id"]))["gpus"] == [1]
    assert made["wants"] == {"gpu_count": 1, "gpu_model": "a100"}
    await peer.heartbeat(usage={**USAGE, "gpus": [{"uuid": "GPU-2", "external": True}]})
    waits = await api.submit("b", gpu_count=1, gpu_model="a100")
    await api.until(waits["id"], reason="waiting for 1 GPU a100 on n1 (0 of 2 free, 1 used by others)")
    named = await api.submit_all("c", targets=["n1::2"])
    assert named["warnings"] == ["n1::2: somebody else uses GPU 2 of n1"]
    await eventually(lambda: (named["tasks"][0]["id"], 1) in peer.orders)
    await peer.heartbeat(usage={**USAGE, "gpus": [{"uuid": "GPU-0", "lost": "fell off the bus"}]})
    lost = await api.submit("d", targets=["n1::0"])
    await api.until(lost["id"], reason="waiting for GPU 0 of n1: fell off the bus")
    await peer.heartbeat(usage=USAGE)  # it is back, and nobody said more: the pass runs by itself
    await eventually(lambda: (lost["id"], 1) in peer.orders)
    with pytest.raises(CannotFit, match="n1 has 3 GPUs, not 4"):
        await api.submit("e", gpu_count=4)
    with pytest.raises(UsageError, match="names its GPUs"):
        await api.submit("e", gpu_count=1, targets=["n1::0"])


USAGE = {"cpu_percent": 1.0, "load": 0.1, "memory_used": 1}


async def test_explain_says_what_would_let_it_go(api: Running) -> None:
    peer = await api.peer("n1", cores=2)
    await api.peer("n2", cores=1)
    busy = await api.submit("a", cores=2, time_limit=600)
    await eventually(lambda: (busy["id"], 1) in peer.orders)
    waits = await api.submit("b", cores=2)
    behind = await api.submit("c", cores=2)
    await api.until(waits["id"], reason="waiting for 2 cores on n1 (0 of 2 free)")
    shown = await api.user.request("GET", host_path("explain", id=waits["id"]))
    assert (shown["ahead"], shown["reserved"]) == (0, "n1")
    assert shown["reserved_at"] is not None
    assert [(each["node"], each["fits"], each["tasks"]) for each in shown["nodes"]] == [
        ("n1", False, [busy["id"]]),
        ("n2", False, []),
    ]
    assert shown["nodes"][1]["why"] == "n2 has 1 core, not 2"
    shown = await api.user.request("GET", host_path("explain", id=behind["id"]))
    assert (shown["ahead"], shown["reserved"]) == (1, None)
    shown = await api.user.request("GET", host_path("explain", id=busy["id"]))
    assert shown["nodes"] == []


@pytest.mark.parametrize("at", ["2099-01-01T00:00:00Z", "1970-01-01T00:00:00Z"])
async def test_the_clock_of_a_node_does_not_tell_when_there_is_room(api: Running, at: str) -> None:
    peer = await api.peer("n1", cores=2)
    busy = await api.submit("a", cores=2, time_limit=600)
    await eventually(lambda: (busy["id"], 1) in peer.orders)
    await peer.report((busy["id"], 1), "running", at=at, started_at=at)
    waits = await api.submit("b", cores=2)
    await api.until(waits["id"], reason="waiting for 2 cores on n1 (0 of 2 free)")
    shown = await api.user.request("GET", host_path("explain", id=waits["id"]))
    left = (datetime.fromisoformat(shown["reserved_at"]) - datetime.now(UTC)).total_seconds()
    assert 600 <= left <= 600 + SLACK


async def test_resubmit_makes_the_same_once_more(api: Running) -> None:
    peer = await api.peer("n1", cores=8, gpus=gpus("A", "A"))
    asked = {
        "env": {"A": "1"},
        "tags": ["x"],
        "gpu_count": 1,
        "priority": 3,
        "time_limit": 60.0,
        "retries": 1,
        "workdir": "/tmp",
        "name": "one",
        "cores": 0.5,
        "memory": 1000,
        "notice": {"signal": 10, "seconds": 5},
    }
    made = await api.submit("a", "b c", **asked)
    path = host_path("resubmit", id=made["id"])
    (second,) = (await api.user.request("POST", path, body={}))["tasks"]
    assert second["name"] is None, "the name is taken while the first lives"
    await ends(peer, made["id"], "killed")
    headers = {HEADER_IDEMPOTENCY: "k"}
    (third,) = (await api.user.request("POST", path, body={}, headers=headers))["tasks"]
    (same,) = (await api.user.request("POST", path, body={}, headers=headers))["tasks"]
    assert same["id"] == third["id"]
    new = ("id", "batch", "state", "reason", "created_at", "assigned_at", "started_at", "ended_at", "node")
    for field in set(made) - set(new):
        assert third[field] == made[field], field
    with pytest.raises(NotFound, match="no task 999"):
        await api.user.request("POST", host_path("resubmit", id=999), body={})


async def test_caps_of_owners(tmp_path: Path) -> None:
    async with running_host(tmp_path, flags={"limits.owner_tasks": 2, "limits.owner_cores": 4.0}) as api:
        peer = await api.peer("n1", cores=8)
        made = [await api.submit("a") for _ in range(3)]
        await eventually(lambda: len(peer.orders) == 2)
        await api.until(made[2]["id"], reason=f"waiting: {made[0]['owner']} may run 2 tasks at a time")
        with pytest.raises(CannotFit, match="may have 4 cores at a time"):
            await api.submit("b", cores=5)
        await ends(peer, made[0]["id"])
        await eventually(lambda: (made[2]["id"], 1) in peer.orders)


async def test_drain_and_remove(api: Running) -> None:
    peer = await api.peer("n1", cores=8, labels={"disk": "ssd"})
    running = await api.submit("a", labels={"disk": "ssd"})
    await eventually(lambda: (running["id"], 1) in peer.orders)
    drained = await api.user.request("POST", host_path("drain", name="n1"), body={"reason": "disk"})
    assert (drained["drained"], drained["drain_reason"]) == (True, "disk")
    waits = await api.submit("b")
    await api.until(waits["id"], reason="waiting: n1 is drained (disk)")
    with pytest.raises(Conflict, match="n1 is online"):
        await api.user.request("POST", host_path("remove", name="n1"), body={"force": True})
    await api.user.request("POST", host_path("undrain", name="n1"))
    await eventually(lambda: (waits["id"], 1) in peer.orders)
    await peer.goodbye()
    with pytest.raises(Conflict, match=f"live tasks: {running['id']}, {waits['id']}"):
        await api.user.request("POST", host_path("remove", name="n1"))
    await api.user.request("POST", host_path("remove", name="n1"), body={"force": True})
    assert await api.user.request("GET", "/api/nodes") == []
    assert (await api.task(running["id"]))["state"] == "lost"
    for verb in ("drain", "undrain", "remove"):
        with pytest.raises(NotFound, match="no node n1"):
            await api.user.request("POST", host_path(verb, name="n1"))
    with pytest.raises(NotFound, match="no node n1"):
        await api.submit("c", targets=["n1"])
    await peer.register()
    assert [each["drained"] for each in await api.user.request("GET", "/api/nodes")] == [False]


async def test_a_node_that_comes_back_smaller(api: Running) -> None:
    peer = await api.peer("n1", cores=4)
    running = await api.submit("a", cores=3)
    await eventually(lambda: (running["id"], 1) in peer.orders)
    waits = await api.submit("b", cores=4)
    await peer.register(cores=2)
    await api.until(waits["id"], reason="no node can run it: n1 has 2 cores, not 4")
    (node,) = await api.user.request("GET", "/api/nodes")
    assert (node["cores"], node["cores_free"]) == (2, 0), "never less than nothing"
    small = await api.submit("c")
    await api.until(small["id"], reason="waiting for 1 core on n1 (0 of 2 free)")
    await ends(peer, running["id"])
    await eventually(lambda: (small["id"], 1) in peer.orders)


async def test_native_is_what_the_node_can(api: Running) -> None:
    plain = await api.peer("n1")
    better = await api.peer("n2", executors=["process", "systemd"])
    made = await api.submit_all("a", executor="native", targets=["n1", "n2"])
    first, second = [each["id"] for each in made["tasks"]]
    await eventually(lambda: (first, 1) in plain.orders and (second, 1) in better.orders)
    assert plain.orders[first, 1].spec.executor == "process"
    assert better.orders[second, 1].spec.executor == "systemd"
    assert (await api.task(second))["executor"] == "systemd"


async def test_what_needs_an_engine_that_is_away_waits_for_it(api: Running) -> None:
    stopped: dict[str, Any] = {"unavailable": {"docker": "no Docker engine runs here"}, "away": ["docker"]}
    peer = await api.peer("n1", **stopped)
    why = "n1 can't run docker now: no Docker engine runs here"
    answer = await api.submit_all("a", image="busybox", targets=["n1"])
    assert answer["warnings"] == [f"n1: {why}; it waits for that to change"]
    anywhere = await api.submit_all("b", image="busybox")
    assert anywhere["warnings"] == [f"{why}; it waits for that to change"]
    made = answer["tasks"][0]["id"]
    await api.until(made, reason=f"waiting: {why}")
    plain = await api.submit("c")
    await eventually(lambda: (plain["id"], 1) in peer.orders)
    await peer.register(executors=["process", "docker"])
    await eventually(lambda: (made, 1) in peer.orders)
    assert peer.orders[made, 1].spec.executor == "docker"
    await peer.register(unavailable={"docker": "no Docker engine runs here"})
    with pytest.raises(CannotFit, match="no node has executor docker: no Docker engine runs here"):
        await api.submit("d", image="busybox")


async def test_native_apart_from_its_node_is_never_a_plain_process(api: Running) -> None:
    await api.peer("n1")
    for apart in ("private_network", "private_pid"):
        with pytest.raises(CannotFit, match="no executor systemd"):
            await api.submit("a", container="NULL", targets=["n1"], **{apart: True})
    await api.peer("n2", executors=["process", "systemd"])
    made = await api.submit("a", container="NULL", private_network=True)
    assert (await api.until(made["id"], node="n2"))["executor"] == "systemd"


async def test_options_that_need_others(api: Running) -> None:
    await api.peer("n1")
    for wrong, text in (
        ({"gpu_model": "a100"}, "without a number of GPUs"),
        ({"pin": True, "cores": 0.5}, "--pin gives whole cores"),
        ({"notice": {"seconds": 5}}, "before a time limit"),
        ({"notice": {"seconds": 50}, "time_limit": 10}, "shorter"),
        ({"shm_size": 10}, "for containers"),
        ({"private_network": True}, "a network"),
        ({"retries": 1000}, "retries"),
        ({"labels": {"a b": "c"}}, "labels"),
        ({"ulimits": {"foo": [1, 2]}}, "there is no ulimit 'foo'"),
        ({"ulimits": {"nofile": [2, 1]}}, "the soft limit 2 is above the hard one 1"),
    ):
        with pytest.raises(UsageError, match=text):
            await api.submit("a", **wrong)
