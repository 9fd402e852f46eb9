"""After a restore: what has run since the backup is found again, and never runs twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.host.adoption import runs
from daemons.host.main import restore_backup, write_backup
from daemons.host.recovery import Waiting, read
from hakuriver import statedir
from hakuriver.errors import Conflict
from hakuriver.nodewire import Report
from tests.api.conftest import Running, running_host
from tests.api.peer import Key, Peer, eventually, report

GIVEN: dict[str, Any] = {"numa": None, "gpus": [], "gpu_uuids": []}


@dataclass
class Restored:
    """A host after a restore, and runners of its past that are not there yet."""

    api: Running
    peers: dict[str, Peer]
    live: dict[str, tuple[Key, ...]] = field(default_factory=dict)

    async def back(self, name: str, *told: dict[str, Any], live: tuple[Key, ...] = ()) -> Peer:
        """A runner registers, tells again, and lists what still lives."""
        old = self.peers[name]
        peer = self.peers[name] = await self.api.peer(name, register=False)
        peer.runner, peer.version, peer.orders, peer.ended = old.runner, old.version, old.orders, old.ended
        await peer.register()
        await peer.heartbeat([(each["task"], each["attempt"]) for each in told] + list(live))
        if told:
            await peer.send(*told)
        await peer.heartbeat(live)
        self.live[name] = live
        return peer

    async def beat(self) -> None:
        """Loop: whoever is back stays there."""
        while True:
            for name, live in list(self.live.items()):
                await self.peers[name].heartbeat(live)
            await asyncio.sleep(0.1)


Then = Callable[[Running, dict[str, Peer]], Awaitable[None]]


@asynccontextmanager
async def restored(
    state: Path, before: Then, *, names: tuple[str, ...] = ("n1", "n2")
) -> AsyncIterator[Restored]:
    """A host put back to what it was after ``before``."""
    file = state / "copy"
    async with running_host(state) as api:
        peers = {name: await api.peer(name) for name in names}
        await before(api, peers)
        write_backup(statedir.layout(state), file)
    restore_backup(statedir.layout(state), file)
    async with host_with(state, peers) as found:
        yield found


@asynccontextmanager
async def host_with(state: Path, peers: dict[str, Peer]) -> AsyncIterator[Restored]:
    async with running_host(state, flags={"timing.heartbeat_timeout_factor": 15}) as api:
        found = Restored(api, peers)
        beating = asyncio.create_task(found.beat())
        try:
            yield found
        finally:
            beating.cancel()
            await asyncio.wait([beating])


def told(key: Key, state: str, sequence: int = 2, **facts: Any) -> dict[str, Any]:
    return report(key, state, sequence, given=GIVEN, **facts)


async def two_waiting(api: Running, peers: dict[str, Peer]) -> None:
    """1 fills n1, 2 fills n2; 3 and 4 wait."""
    for name, peer in peers.items():
        await api.running_on(peer, "full", cores=2, targets=[name])
    for _each in range(2):
        await api.submit("waits", cores=1)


async def test_what_waits_in_the_backup_waits_for_all_nodes(tmp_path: Path) -> None:
    async with restored(tmp_path, two_waiting) as cluster:
        api = cluster.api
        await eventually(lambda: _reason(api, 3, "n1, n2 to come back after the restore"))
        await cluster.back("n1", told((1, 1), "completed", exit_code=0))
        new = await api.submit("new", cores=1)
        one = cluster.peers["n1"]
        await one.wait(lambda: (new["id"], 1) in one.orders)
        await eventually(lambda: _reason(api, 3, "waiting for n2 to come back after the restore"))
        assert set(one.puts) == {(new["id"], 1)}
        await cluster.back("n2", told((2, 1), "completed", exit_code=0), told((3, 1), "failed", exit_code=7))
        found = await api.until(3, state="failed")
        assert (found["node"], found["exit_code"], found["attempt"]) == ("n2", 7, 1)
        both = (one, cluster.peers["n2"])
        await eventually(lambda: any((4, 1) in each.puts for each in both))
        puts = [key for each in both for key in each.puts]
        assert sorted(puts) == [(4, 1), (new["id"], 1)], "3 has run already"


async def _reason(api: Running, number: int, part: str) -> bool:
    return part in (await api.task(number))["reason"]


async def test_what_runs_on_is_adopted_with_what_it_holds(tmp_path: Path) -> None:
    async with restored(tmp_path, two_waiting) as cluster:
        api = cluster.api
        live = (told((3, 1), "paused", 4, executor="process"), told((4, 1), "running", 2))
        two = await cluster.back("n2", *live, live=((2, 1), (3, 1), (4, 1)))
        assert (await api.task(3))["state"] == "paused"
        assert (await api.task(4))["started_at"] is not None
        node = await api.user.request("GET", "/api/nodes/n2")
        assert (node["tasks"], node["cores_free"]) == (3, 0)
        await api.tell(3, "resume")
        await two.wait(lambda: two.intents)
        key, intent = two.intents[0]
        assert (key, intent.intent) == ((3, 1), "run")
        assert intent.version > 1000, "newer than any that the runner may know"
        await two.send(report((3, 1), "running", 5, intent_version=intent.version))
        found = await api.task(3)
        assert (found["state"], found["intent"]) == ("running", None)
        await cluster.back("n1")
        await two.send(report((3, 1), "completed", 6, exit_code=0))
        await api.until(3, state="completed")
        assert (3, 1) not in two.puts


async def test_a_later_attempt_replaces_the_one_of_the_backup(tmp_path: Path) -> None:
    async def running(api: Running, peers: dict[str, Peer]) -> None:
        made = await api.submit("x", targets=["n1"])
        await peers["n1"].wait(lambda: (made["id"], 1) in peers["n1"].orders)
        await peers["n1"].report((made["id"], 1), "running")

    async with restored(tmp_path, running) as cluster:
        await cluster.back("n2", told((1, 2), "running"), live=((1, 2),))
        found = await cluster.api.task(1)
        assert (found["attempt"], found["node"], found["state"]) == (2, "n2", "running")
        assert [each["state"] for each in found["attempts"]] == ["lost", "running"]
        one = await cluster.back("n1", live=((1, 1),))
        await _listed_until_killed(one, (1, 1))
        assert (await cluster.api.task(1))["attempt"] == 2


async def _listed_until_killed(peer: Peer, *keys: Key) -> None:
    async def beat() -> bool:
        await peer.heartbeat(keys)
        return {key for key, intent in peer.intents if intent.intent == "kill"} >= set(keys)

    await eventually(beat)


async def test_never_started_under_one_number_and_done_under_the_next(tmp_path: Path) -> None:
    async with restored(tmp_path, two_waiting) as cluster:
        both = told((3, 1), "pending", reason="engine"), told((3, 2), "completed", exit_code=0)
        await cluster.back("n1", *both)
        found = await cluster.api.task(3)
        assert [(each["state"], each["node"]) for each in found["attempts"]] == [
            ("pending", "n1"),
            ("completed", "n1"),
        ]
        await cluster.back("n1", told((4, 1), "pending", reason="engine"))
        assert (await cluster.api.task(4))["attempt"] == 2
        await cluster.back("n2", told((4, 2), "completed", exit_code=0))
        assert (await cluster.api.task(4))["state"] == "completed"


async def test_tasks_that_nobody_knows_any_more_are_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with restored(tmp_path, two_waiting) as cluster:
        one = await cluster.back("n1", live=((77, 1), (78, 1)))
        assert await one.send(told((76, 1), "completed"), told((77, 1), "running")) == ["refused", "refused"]
        await _listed_until_killed(one, (77, 1), (78, 1))
        refused = [each for each in caplog.records if each.message == "report_refused"]
        assert [vars(each)["hakuriver_facts"]["task"] for each in refused] == [76, 77]
        await cluster.back("n2")
        await cluster.api.until(3, state="assigned")


async def test_an_order_whose_arrival_is_unknown_is_not_sent_again_too_early(tmp_path: Path) -> None:
    async def assigned(api: Running, peers: dict[str, Peer]) -> None:
        peers["n1"].refuse = Conflict("an order of the past", code="old_epoch")
        made = await api.submit("x", targets=["n1"])
        await peers["n1"].wait(lambda: (made["id"], 1) in peers["n1"].puts)

    async with restored(tmp_path, assigned) as cluster:
        one = await cluster.back("n1")
        await eventually(lambda: _reason(cluster.api, 1, "waiting for n2"))
        assert one.puts == []
        await cluster.back("n2", told((1, 2), "completed", exit_code=0))
        await cluster.api.until(1, state="completed")
        assert one.puts == []


async def test_nodes_are_heard_out_before_anything_is_placed_there(tmp_path: Path) -> None:
    async with restored(tmp_path, two_waiting) as cluster:
        api, one = cluster.api, cluster.peers["n1"]
        one = await api.peer("n1", register=False)
        one.runner = cluster.peers["n1"].runner
        await one.register()
        await one.send(told((1, 1), "completed", exit_code=0))
        await one.heartbeat([(3, 1)])
        assert (await one.heartbeat([], epoch=1))["introduce"], "written before it knew of the restore"
        new = await api.submit("new", targets=["n1"])
        await eventually(lambda: _reason(api, new["id"], "n1 has not told yet what runs there"))
        await one.send(told((3, 1), "running"))
        cluster.peers["n1"], cluster.live["n1"] = one, ((3, 1),)
        await one.wait(lambda: (new["id"], 1) in one.orders)


async def test_an_operator_need_not_wait(tmp_path: Path) -> None:
    async with restored(tmp_path, two_waiting) as cluster:
        api = cluster.api
        await cluster.back("n1", told((1, 1), "completed", exit_code=0))
        with pytest.raises(Conflict, match="may have run on a node that has not come back"):
            await api.tell(3, "requeue")
        assert (await api.tell(3, "requeue", force=True))["attempt"] == 2
        one = cluster.peers["n1"]
        await one.wait(lambda: (3, 2) in one.orders)
        two = await cluster.back("n2", told((3, 1), "running"), live=((3, 1),))
        await _listed_until_killed(two, (3, 1))
        assert (await api.task(3))["node"] == "n1"


async def test_a_host_that_is_restarted_meanwhile_still_waits(tmp_path: Path) -> None:
    async with restored(tmp_path, two_waiting) as cluster:
        await cluster.back("n1", told((1, 1), "completed", exit_code=0))
        await eventually(lambda: _reason(cluster.api, 3, "waiting for n2"))
        peers = cluster.peers
    async with host_with(tmp_path, peers) as again:
        api = again.api
        await eventually(lambda: _reason(api, 3, "waiting for n2"))
        one = await again.back("n1")
        assert one.puts == []
        await again.back("n2", told((3, 1), "completed", exit_code=0))
        await api.until(4, state="assigned")
        assert (await api.task(3))["state"] == "completed"
    async with running_host(tmp_path) as api:
        assert not api.host.recovery.keeps(4)


async def test_a_node_that_the_backup_does_not_know_may_speak_first(tmp_path: Path) -> None:
    async with restored(tmp_path, two_waiting) as cluster:
        await cluster.back("n1")
        await cluster.back("n2")
        assert cluster.api.host.recovery.keeps(3), "others have some time"
        cluster.peers["n3"] = await cluster.api.peer("n3", register=False)
        await cluster.back("n3", told((3, 1), "completed", exit_code=0))
        await cluster.api.until(3, state="completed")
        await cluster.api.until(4, state="assigned")


async def test_nobody_adopts_without_a_restore(api: Running) -> None:
    peer = await api.peer("n1", cores=1)
    await api.submit("x", cores=1)
    waiting = await api.submit("y", cores=1)
    await peer.wait(lambda: peer.orders)
    assert await peer.send(told((waiting["id"], 1), "completed")) == ["refused"]
    assert (await api.task(waiting["id"]))["state"] == "pending"


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=12))
def test_runs_keep_the_order_and_hold_one_number_of_a_task(keys: list[Key]) -> None:
    reports = [Report.model_validate(told(key, "running", number)) for number, key in enumerate(keys, 1)]
    cut = list(runs(reports))
    assert [each for run in cut for each in run] == reports
    for run in cut:
        assert run
        assert len({each.task for each in run}) == len({(each.task, each.attempt) for each in run})


@given(st.integers(0), st.none() | st.lists(st.text()), st.lists(st.integers()))
def test_what_is_waited_for_is_kept(last: int, names: list[str] | None, ids: list[int]) -> None:
    waiting = Waiting(last, None if names is None else tuple(names), tuple(ids))
    assert read(waiting.text()) == waiting
    assert read(None).awaited is None


async def test_a_long_queue_is_let_go_in_its_order(tmp_path: Path) -> None:
    async def many(api: Running, peers: dict[str, Peer]) -> None:
        await peers["n1"].goodbye()
        await api.submit_all("x", targets=["n1"] * 3000)

    async with restored(tmp_path, many, names=("n1",)) as cluster:
        newer = await cluster.api.submit("x", targets=["n1"])
        one = await cluster.back("n1")
        await one.wait(lambda: len(one.puts) >= 2)
        assert one.puts[0] == (newer["id"], 1) or one.puts[0] == (1, 1)
        (lane,) = cluster.api.host.ledger.queue.lanes.values()
        await asyncio.sleep(0)
        assert list(lane) == sorted(lane)
