"""A task's whole way: submitted, placed, ordered, reported, watched."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hakuriver.errors import CannotFit, Conflict, HakuRiverError, StorageFull
from hakuriver.nodewire import AttemptSpec
from tests.api.conftest import Running, running_host
from tests.api.peer import eventually, report


async def test_a_task_from_submission_to_its_end(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.submit("echo", "hello", env={"A": "1"}, tags=["x"], name="greeting")
    assert made["state"] == "pending"
    assert (made["owner"], made["executor"], made["attempt"]) == (made["owner"], "process", 1)
    key = (made["id"], 1)
    await eventually(lambda: key in peer.orders)
    spec = peer.orders[key].spec
    assert spec == AttemptSpec(
        task=made["id"],
        attempt=1,
        owner=made["owner"],
        command=["echo", "hello"],
        env={"A": "1"},
        executor="process",
        cores=1,
        memory=0,
        target="n1",
    )
    assert peer.orders[key].cluster == api.host.store.identity.cluster
    assert (await api.task(made["id"]))["state"] == "assigned"
    await peer.report(key, "preparing", reason="loading")
    assert (await api.task(made["id"]))["reason"] == "loading"
    await peer.report(key, "running", executor="process", started_at="2026-01-31T12:00:00.123456+01:00")
    running = await api.task(made["id"])
    assert (running["state"], running["node"], running["started_at"]) == (
        "running",
        "n1",
        "2026-01-31T11:00:00.123Z",
    )
    await peer.report(key, "completed", exit_code=0)
    done = await api.task(made["id"])
    assert (done["state"], done["exit_code"], done["signal"]) == ("completed", 0, None)
    assert done["attempts"][0]["state"] == "completed"
    assert len(peer.puts) == 1


async def test_two_hundred_short_tasks_flow_through_one_node(api: Running) -> None:
    peer = await api.peer("n1", cores=2)
    started = asyncio.get_running_loop().time()
    made = await api.submit_all("true", cores=0, targets=["n1"] * 200)
    ids = {each["id"] for each in made["tasks"]}
    assert {each["batch"] for each in made["tasks"]} == {made["batch"]} == {min(ids)}
    await eventually(lambda: len(peer.orders) == 200, 20)
    await peer.send(*[report((number, 1), "completed", 1, exit_code=0) for number in ids])
    assert (await api.tasks(state="live"))["items"] == []
    assert asyncio.get_running_loop().time() - started < 15
    assert sorted(peer.puts) == sorted((number, 1) for number in ids), "each was ordered once"


async def test_nothing_is_over_booked_and_the_reason_says_why(api: Running) -> None:
    peer = await api.peer("n1", cores=2)
    ids = [(await api.submit("true"))["id"] for _ in range(4)]
    await eventually(lambda: len(peer.orders) == 2)
    third, fourth = (
        await api.until(ids[2], reason="waiting for 1 core on n1 (0 of 2 free)"),
        await api.task(ids[3]),
    )
    assert (third["state"], fourth["state"]) == ("pending", "pending")
    assert fourth["reason"] == "queued behind earlier tasks"
    (node,) = await api.user.request("GET", "/api/nodes")
    assert (node["cores_free"], node["tasks"]) == (0, 2)
    await peer.report((ids[0], 1), "failed", exit_code=1)
    await eventually(lambda: (ids[2], 1) in peer.orders)
    await api.until(ids[3], reason="waiting for 1 core on n1 (0 of 2 free)")
    assert len(peer.orders) == 3


async def test_a_blocked_task_keeps_only_its_own_nodes(api: Running) -> None:
    small, large = await api.peer("small", cores=1), await api.peer("large", cores=8)
    busy = await api.submit("true", cores=8, targets=["large"])
    await eventually(lambda: (busy["id"], 1) in large.orders)
    waits = await api.submit("true", cores=8)
    behind = await api.submit("true", targets=["large"])
    elsewhere = await api.submit("true", cores=1)
    await eventually(lambda: (elsewhere["id"], 1) in small.orders)
    assert (await api.task(waits["id"]))["reason"] == "waiting for 8 cores on large (0 of 8 free)"
    assert (await api.task(behind["id"]))["reason"] == "waiting for 1 core on large (0 of 8 free)"


async def test_gpus_are_exclusive(api: Running) -> None:
    gpus = [{"index": n, "uuid": f"GPU-{n}", "model": "A", "memory": 10} for n in range(2)]
    peer = await api.peer("n1", gpus=gpus)
    first = await api.submit("true", targets=["n1::0,1"], cores=0)
    second = await api.submit("true", targets=["n1::1"], cores=0)
    await eventually(lambda: (first["id"], 1) in peer.orders)
    assert peer.orders[first["id"], 1].spec.gpu_uuids == ["GPU-0", "GPU-1"]
    assert peer.orders[first["id"], 1].spec.target == "n1::0,1"
    await api.until(second["id"], reason="waiting for GPU 1 on n1 (in use)")
    (node,) = await api.user.request("GET", "/api/nodes")
    assert [gpu["task"] for gpu in node["gpus"]] == [first["id"], first["id"]]
    await peer.report((first["id"], 1), "completed", exit_code=0)
    await eventually(lambda: (second["id"], 1) in peer.orders)


async def test_a_refused_order_fails_the_task(api: Running) -> None:
    peer = await api.peer("n1")
    peer.refuse = CannotFit("this node has no such image")
    made = await api.submit("true")
    failed = await api.until(made["id"], state="failed")
    assert failed["error"] == "n1 refused it: this node has no such image"
    assert len(peer.puts) == 1


async def test_a_runner_whose_disk_is_full_is_asked_again(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons.host.dispatcher.LAST_BACKOFF", 0.1)
    peer = await api.peer("n1")
    peer.refuse = StorageFull("no room")
    made = await api.submit("true")
    await api.until(made["id"], reason="n1 answers: no room")
    peer.refuse = None
    await eventually(lambda: (made["id"], 1) in peer.orders)
    await api.until(made["id"], reason="", state="assigned")


async def test_a_runner_of_another_cluster_fails_no_task(api: Running) -> None:
    peer = await api.peer("n1")
    peer.refuse = Conflict("this runner belongs to cluster x", code="other_cluster")
    made = await api.submit("true")
    told = await api.until(made["id"], reason="n1 answers: this runner belongs to cluster x")
    assert told["state"] == "assigned"


async def test_an_order_waits_for_a_runner_that_does_not_answer(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons.host.dispatcher.SILENT_SECONDS", 0.1)
    peer = await api.peer("n1", register=False)
    address, peer.address = peer.address, "http://127.0.0.1:1"
    await peer.register()
    made = await api.submit("true")
    await api.until(made["id"], state="assigned", reason="n1 doesn't answer, may have started")
    peer.address = address
    await peer.register()
    await eventually(lambda: (made["id"], 1) in peer.orders)
    await api.until(made["id"], state="assigned", reason="")


async def test_not_started_means_another_attempt(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.submit("true")
    await eventually(lambda: (made["id"], 1) in peer.orders)
    assert await peer.report((made["id"], 1), "pending", reason="the engine is away") == "applied"
    waits = await api.task(made["id"])
    assert (waits["attempt"], waits["state"]) == (2, "pending")
    assert waits["reason"] == "not started on n1: the engine is away"
    await eventually(lambda: (made["id"], 2) in peer.orders)
    assert await peer.report((made["id"], 1), "running") == "refused"
    await peer.report((made["id"], 2), "completed", exit_code=0)
    done = await api.task(made["id"])
    assert (done["state"], [each["attempt"] for each in done["attempts"]]) == ("completed", [1, 2])


async def test_names_are_unique_among_the_living(api: Running) -> None:
    first = await api.submit("true", name="train")
    with pytest.raises(Conflict, match=f"taken by task {first['id']}"):
        await api.submit("true", name="train")
    await api.tell(first["id"], "kill")
    again = await api.submit("true", name="train")
    assert [each["id"] for each in (await api.tasks(name="train"))["items"]] == [again["id"], first["id"]]


async def test_a_restarted_host_goes_on_where_it_was(tmp_path: Path) -> None:
    async with running_host(tmp_path) as api:
        peer = await api.peer("n1", register=False)
        peer.address = "http://127.0.0.1:1"
        await peer.register()
        unordered, waits = await api.submit("true", cores=2), await api.submit("true")
        await api.until(unordered["id"], state="assigned")
    async with running_host(tmp_path) as api:
        again = await api.peer("n1", register=False)
        again.runner = peer.runner
        await again.register()
        await eventually(lambda: (unordered["id"], 1) in again.orders)
        await api.until(waits["id"], reason="waiting for 1 core on n1 (0 of 2 free)")
        await again.report((unordered["id"], 1), "running")
        await api.user.aclose()
        await eventually(lambda: api.host.ledger.acked)
    async with running_host(tmp_path) as api:
        known = await api.peer("n1", register=False)
        known.runner = peer.runner
        await known.register()
        await api.tell(unordered["id"], "kill")
        await eventually(lambda: known.intents)
        assert known.puts == [], "what was acknowledged is not ordered again"


async def test_an_intent_that_was_not_delivered_is_after_a_restart(tmp_path: Path) -> None:
    async with running_host(tmp_path) as api:
        peer = await api.peer("n1")
        made = await api.running_on(peer, "sleep", "9")
        await eventually(lambda: api.host.ledger.acked)
        peer.address = "http://127.0.0.1:1"
        await peer.register()
        await api.tell(made["id"], "kill")
    async with running_host(tmp_path) as api:
        again = await api.peer("n1", register=False)
        again.runner = peer.runner
        await again.register()
        await eventually(lambda: again.intents)
        assert again.intents[0][0] == (made["id"], 1)
        assert (await api.task(made["id"]))["state"] == "stopping"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_writer_with_a_bug_takes_the_host_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_host(tmp_path) as api:

        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        await api.submit("true")
        monkeypatch.setattr(api.host.store, "_step", broken)
        for _ in range(2):
            with pytest.raises(HakuRiverError, match="store has ended"):
                await api.submit("true")
        ended = [each for each in api.loops if each.done()]
        assert ended, "serve ends the daemon when a loop ends"
        api.loops[:] = [each for each in api.loops if not each.done()]
