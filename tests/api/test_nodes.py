"""Nodes: seen, missed, back again, and never written off too early."""

from __future__ import annotations

from pathlib import Path

import pytest

from hakuriver.errors import Conflict, NotFound
from hakuriver.paths import host_path
from tests.api.conftest import Running, running_host
from tests.api.peer import Peer, eventually


async def state_of(api: Running, name: str) -> str:
    found: str = (await api.user.request("GET", f"/api/nodes/{name}"))["state"]
    return found


async def test_a_silent_node_is_unreachable_and_its_tasks_say_so(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.running_on(peer, "sleep", "9")
    waits = await api.submit("true", targets=["n1"], cores=2)
    async with api.watch() as stream:
        await stream.next("snapshot")
        while (await stream.next("node"))["node"]["state"] != "unreachable":
            pass
    task = await api.until(made["id"], reason="n1 is unreachable")
    assert task["state"] == "running"
    await api.until(waits["id"], reason="waiting: n1 is unreachable")
    await peer.heartbeat()
    assert await state_of(api, "n1") == "online"
    assert (await api.task(made["id"]))["reason"] == ""
    await peer.report((made["id"], 1), "completed", exit_code=0)
    await eventually(lambda: (waits["id"], 1) in peer.orders)


async def test_goodbye_is_offline_until_it_registers_again(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.running_on(peer, "sleep", "9")
    await peer.goodbye()
    assert await state_of(api, "n1") == "offline"
    assert (await api.task(made["id"]))["reason"] == "n1 is offline"
    assert (await peer.heartbeat())["introduce"] is True, "a late heartbeat is not a return"
    assert await state_of(api, "n1") == "offline"
    await peer.register()
    assert await state_of(api, "n1") == "online"
    assert await peer.report((made["id"], 1), "completed", exit_code=0) == "applied"


async def test_a_node_with_new_facts_registers_again(api: Running) -> None:
    peer = await api.peer("n1")
    assert (await peer.heartbeat())["introduce"] is False
    assert (await peer.heartbeat(boot_id="another"))["introduce"] is True
    waits = await api.submit("true", targets=["n1"], cores=2)
    await eventually(lambda: peer.orders)
    behind = await api.submit("true", targets=["n1"], cores=2)
    await peer.register(cores=4)
    await eventually(lambda: (behind["id"], 1) in peer.orders)
    assert waits["id"] < behind["id"]


async def test_a_restarted_host_gives_everybody_a_full_grace(tmp_path: Path) -> None:
    async with running_host(tmp_path) as api:
        peer = await api.peer("n1")
        made = await api.running_on(peer, "sleep", "9")
    async with running_host(tmp_path) as api:
        assert await state_of(api, "n1") == "online"
        assert (await api.task(made["id"]))["state"] == "running"
        (node,) = await api.user.request("GET", "/api/nodes")
        assert (node["tasks"], node["cores_free"]) == (1, 1)


async def test_a_host_that_was_asleep_forgives_silence(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    for task in api.loops:
        if "watch" in repr(task.get_coro()):
            task.cancel()
    nodes = api.host.nodes
    now = nodes._now()
    await api.peer("n1")
    monkeypatch.setattr(nodes, "_now", lambda: now)
    await nodes.check(0.1)
    monkeypatch.setattr(nodes, "_now", lambda: now + 3600)
    await nodes.check(0.1)
    assert await state_of(api, "n1") == "online", "the hour was the host's own"
    for passed in (0.4, 0.8, 1.1):
        monkeypatch.setattr(nodes, "_now", lambda later=passed: now + 3600 + later)
        await nodes.check(0.4)
    assert await state_of(api, "n1") == "online", "a full grace from then on"
    monkeypatch.setattr(nodes, "_now", lambda: now + 3600 + 1.3)
    await nodes.check(0.4)
    assert await state_of(api, "n1") == "unreachable"


async def test_what_the_journal_does_not_know_is_lost(api: Running) -> None:
    peer = await api.peer("n1")
    kept = await api.running_on(peer, "sleep", "9")
    gone = await api.running_on(peer, "sleep", "9")
    await peer.heartbeat([(kept["id"], 1)], journal_version=1)
    assert (await api.task(gone["id"]))["state"] == "running", "that heartbeat is older than the order"
    await peer.heartbeat([(kept["id"], 1)])
    lost = await api.task(gone["id"])
    assert (lost["state"], lost["reason"]) == ("lost", "the runner has no record of it")
    assert (await api.task(kept["id"]))["state"] == "running"


async def test_an_unacknowledged_order_is_never_lost(api: Running) -> None:
    peer = await api.peer("n1", register=False)
    peer.address = "http://127.0.0.1:1"
    await peer.register()
    made = await api.submit("true")
    await api.until(made["id"], state="assigned")
    await peer.heartbeat([], journal_version=10**6)
    assert (await api.task(made["id"]))["state"] == "assigned"


async def test_a_runner_of_another_cluster_is_refused(api: Running) -> None:
    peer = await api.peer("n1", register=False)
    with pytest.raises(Conflict, match="belongs to cluster other"):
        await peer.register(cluster="other")
    await peer.register(cluster=(await api.user.request("GET", host_path("cluster")))["cluster"])


async def test_another_journal_takes_a_name_over_only_when_its_owner_is_away(api: Running) -> None:
    first = await api.peer("n1")
    made = await api.running_on(first, "sleep", "9")
    second = await api.peer("n1", register=False)
    with pytest.raises(Conflict, match="online node n1"):
        await second.register()
    await first.goodbye()
    await second.register()
    lost = await api.task(made["id"])
    assert lost["state"] == "lost"
    assert "another journal" in lost["reason"]
    with pytest.raises(Conflict):
        await first.register()
    after = await api.submit("true")
    await eventually(lambda: (after["id"], 1) in second.orders)


async def test_an_unknown_node(api: Running) -> None:
    with pytest.raises(NotFound, match="no node n7"):
        await api.user.request("GET", "/api/nodes/n7")
    stranger = Peer("n7", api.node, "")
    assert await stranger.goodbye() == {"ok": True}
