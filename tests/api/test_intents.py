"""Kill, hold, pause, resume: accepted at once, visible until done, never lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hakuriver.errors import Conflict, NotFound, StorageFull, Unreachable, UsageError
from hakuriver.paths import host_path
from tests.api.conftest import Running, running_host
from tests.api.peer import eventually


async def test_killing_what_waits_ends_it_at_once(api: Running) -> None:
    made = await api.submit("true")
    killed = await api.tell(made["id"], "kill")
    assert (killed["state"], killed["reason"]) == ("killed", f"killed by {made['owner']}")
    assert killed["ended_at"]
    assert await api.tell(made["id"], "kill") == killed, "killing what has ended is fine"
    await api.peer("n1")
    assert (await api.task(made["id"]))["state"] == "killed"


async def test_a_kill_is_delivered_and_stays_visible_until_the_end(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.running_on(peer, "sleep", "9")
    key = (made["id"], 1)
    stopping = await api.tell(made["id"], "kill", grace=3)
    assert (stopping["state"], stopping["intent"], stopping["intent_by"]) == (
        "stopping",
        "kill",
        made["owner"],
    )
    await eventually(lambda: peer.intents)
    (told, order), *more = peer.intents
    assert (told, order.intent, order.version, order.grace, more) == (key, "kill", 1, 3, [])
    assert await peer.report(key, "running") == "applied", "the node may not know yet"
    assert (await api.task(made["id"]))["state"] == "stopping"
    await peer.report(key, "killed", intent_version=1, signal=15)
    done = await api.task(made["id"])
    assert (done["state"], done["intent"], done["signal"]) == ("killed", None, 15)
    assert done["reason"] == f"killed by {made['owner']}"


async def test_a_second_kill_counts_when_it_is_more_impatient(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.running_on(peer, "sleep", "9")
    for grace in (60, 60, 90, 0):
        await api.tell(made["id"], "kill", grace=grace)
    await eventually(lambda: peer.intents and peer.intents[-1][1].grace == 0)
    assert {order.version for _, order in peer.intents} <= {1, 2}


async def test_a_kill_travels_with_an_order_that_was_not_taken_yet(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await api.peer("n1", register=False)
    address, peer.address = peer.address, "http://127.0.0.1:1"
    await peer.register()
    made = await api.submit("true")
    await api.until(made["id"], state="assigned")
    await api.tell(made["id"], "kill")
    peer.address = address
    await peer.register()
    await eventually(lambda: (made["id"], 1) in peer.orders)
    intent = peer.orders[made["id"], 1].intent
    assert intent is not None
    assert (intent.intent, intent.version) == ("kill", 1)
    assert await peer.report((made["id"], 1), "pending", reason="killed first") == "applied"
    done = await api.task(made["id"])
    assert (done["state"], done["attempt"]) == ("killed", 1), "nobody wants another attempt"


async def test_pause_and_resume(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.running_on(peer, "sleep", "9")
    key = (made["id"], 1)
    assert (await api.tell(made["id"], "pause"))["intent"] == "pause"
    assert (await api.tell(made["id"], "pause"))["intent"] == "pause"
    await eventually(lambda: peer.intents)
    await peer.report(key, "paused", intent_version=1)
    paused = await api.task(made["id"])
    assert (paused["state"], paused["intent"]) == ("paused", None)
    assert (await api.tell(made["id"], "resume"))["intent"] == "resume"
    await eventually(lambda: len(peer.intents) == 2)
    assert [order.version for _, order in peer.intents] == [1, 2]
    await peer.report(key, "running", intent_version=2)
    assert (await api.task(made["id"]))["intent"] is None
    assert (await api.tell(made["id"], "resume"))["state"] == "running", "what runs just goes on"
    await peer.report(key, "completed", exit_code=0)
    for verb in ("pause", "resume", "unkill"):
        with pytest.raises(Conflict, match="ended"):
            await api.tell(made["id"], verb)


async def test_what_makes_no_sense_is_a_conflict(api: Running) -> None:
    made = await api.submit("true")
    for verb, body in (("pause", {}), ("resume", {}), ("unkill", {}), ("signal", {"signal": 2})):
        with pytest.raises(Conflict):
            await api.tell(made["id"], verb, **body)
        with pytest.raises(NotFound):
            await api.tell(999, verb, **body)


async def test_a_held_kill_can_be_taken_back(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.running_on(peer, "sleep", "9")
    held = await api.tell(made["id"], "kill", delay=30)
    assert (held["state"], held["intent"], held["intent_by"]) == ("running", "kill", made["owner"])
    due = datetime.fromisoformat(held["intent_due_at"]) - datetime.fromisoformat(held["created_at"])
    assert timedelta(seconds=28) < due < timedelta(seconds=40)
    assert await api.tell(made["id"], "kill", delay=5) == held, "it is held already"
    back = await api.tell(made["id"], "unkill")
    assert (back["state"], back["intent"], back["intent_due_at"]) == ("running", None, None)
    with pytest.raises(Conflict, match="no kill"):
        await api.tell(made["id"], "unkill")
    await api.tell(made["id"], "kill", delay=0.1)
    await api.until(made["id"], state="stopping")
    with pytest.raises(Conflict, match="too late"):
        await api.tell(made["id"], "unkill")
    await eventually(lambda: peer.intents)
    assert len(peer.intents) == 1


async def test_a_kill_now_replaces_one_that_is_held(api: Running) -> None:
    held = await api.submit("true")
    await api.tell(held["id"], "kill", delay=60)
    killed = await api.tell(held["id"], "kill")
    assert (killed["state"], killed["intent_due_at"]) == ("killed", None)


async def test_a_held_kill_outlives_the_host(tmp_path: Path) -> None:
    async with running_host(tmp_path) as api:
        made = await api.submit("true")
        await api.tell(made["id"], "kill", delay=0.3)
    async with running_host(tmp_path) as api:
        done = await api.until(made["id"], state="killed")
        assert done["intent_due_at"] is None


async def test_signals_and_stdin_go_to_the_node_now_or_never(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.running_on(peer, "cat", stdin=True)
    deaf = await api.running_on(peer, "cat")
    assert (await api.tell(made["id"], "signal", signal=2))["state"] == "running"
    assert peer.signals == [((made["id"], 1), 2)]
    path = f"/api/tasks/{made['id']}/stdin"
    assert await api.user.request("POST", path, query={"offset": 0}, body=b"abc") == {"offset": 3}
    assert peer.fed == b"abc"
    with pytest.raises(Conflict, match="without standard input"):
        await api.user.request("POST", f"/api/tasks/{deaf['id']}/stdin", body=b"x")
    peer.address = "http://127.0.0.1:1"
    await peer.register()
    with pytest.raises(Unreachable, match="n1 doesn't answer"):
        await api.tell(made["id"], "signal", signal=2)


async def test_an_intent_that_a_node_refuses_is_final_and_visible(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons.host.dispatcher.LAST_BACKOFF", 0.05)
    peer = await api.peer("n1")
    made = await api.running_on(peer, "sleep", "9")
    peer.refuse_intent = UsageError("no such intent here")
    await api.tell(made["id"], "pause")
    told = await api.until(made["id"], reason="n1 refused to pause it: no such intent here")
    assert (told["state"], told["intent"]) == ("running", None)
    await api.tell(made["id"], "kill", grace=60)
    told = await api.until(made["id"], reason="n1 refused to end it: no such intent here")
    assert (told["state"], told["intent"]) == ("stopping", None)
    assert [order.intent for _, order in peer.intents] == ["pause", "kill"], "each was said once"
    peer.refuse_intent = None
    assert (await api.tell(made["id"], "kill", grace=60))["intent"] == "kill", "it can be asked for again"
    await eventually(lambda: [order.version for _, order in peer.intents] == [1, 2, 3])


async def test_an_intent_that_a_node_can_not_store_is_told_again(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons.host.dispatcher.LAST_BACKOFF", 0.05)
    peer = await api.peer("n1")
    made = await api.running_on(peer, "sleep", "9")
    peer.refuse_intent = StorageFull("no room")
    await api.tell(made["id"], "pause")
    await eventually(lambda: len(peer.intents) > 2)
    assert (await api.task(made["id"]))["intent"] == "pause"
    peer.refuse_intent = None
    await peer.report((made["id"], 1), "paused", intent_version=1)
    assert (await api.task(made["id"]))["intent"] is None


async def test_many_tasks_are_told_at_once(api: Running) -> None:
    peer = await api.peer("n1")
    running = await api.running_on(peer, "sleep", "9", cores=2)
    waiting = (await api.submit_all("true", targets=["n1"] * 900))["tasks"]
    ended = waiting.pop()["id"]
    await api.tell(ended, "kill")
    nobody = [0, 10**9]
    ids = [running["id"], *nobody, *(each["id"] for each in waiting), ended]
    body = {"verb": "pause", "tasks": ids}
    paused = await api.user.request("POST", host_path("intents"), body=body)
    assert [(each["id"], each["intent"]) for each in paused["items"]] == [(running["id"], "pause")]
    assert [each["id"] for each in paused["refused"]] == ids[1:]
    assert {each["status"] for each in paused["refused"]} == {404, 409}
    killed = await api.user.request("POST", host_path("intents"), body=body | {"verb": "kill", "grace": 1})
    assert [each["id"] for each in killed["items"]] == [each for each in ids if each not in nobody]
    assert [each["state"] for each in killed["items"]] == ["stopping"] + ["killed"] * 900
    assert [each["id"] for each in killed["refused"]] == nobody
    assert {each["error"]["code"] for each in killed["refused"]} == {"not_found"}
