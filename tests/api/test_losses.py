"""Lost nodes: a task moves on only when its fence has ended it, or a person says so; what comes back ends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemons.host import losses
from hakuriver.errors import Conflict, NotFound, UsageError
from tests.api.conftest import Running, running_host
from tests.api.peer import Peer, eventually

FLAGS = {"timing.heartbeat_timeout_factor": 2.0, "timing.lease": 1.0}


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "GRACE", 0.2)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Running]:
    """A host that gives up soon."""
    async with running_host(tmp_path, flags=FLAGS) as running:
        yield running


async def lost(host: Running, peer: Peer, policy: str, *, fence: bool = True, **more: Any) -> int:
    """A task that runs on a node, of which nothing more is heard than one last heartbeat."""
    made = (await host.running_on(peer, "true", on_node_loss=policy, **more))["id"]
    await peer.heartbeat(fences=[(made, 1)] if fence else [])
    return int(made)


async def test_a_fenced_task_waits_again_after_its_lease_and_not_before(host: Running) -> None:
    peer = await host.peer("n1")
    made = await lost(host, peer, "requeue")
    assert peer.orders[made, 1].spec.fenced
    heard = host.host.nodes["n1"].seen
    moved = await host.until(made, attempt=2)
    assert moved["started_at"] is None
    assert moved["on_node_loss"] == "requeue"
    assert host.host.losses._now() - heard >= 1.2
    first, second = moved["attempts"]
    assert (first["state"], first["reason"]) == ("lost", "n1 unreachable; fenced")
    assert (second["state"], moved["state"]) == ("pending", "pending")
    other = await host.peer("n2")
    await eventually(lambda: (made, 2) in other.orders)


async def test_the_answer_of_a_registration_names_the_lease(host: Running) -> None:
    peer = await host.peer("n1")
    assert (await peer.register())["lease"] == 1.0


async def test_fail_says_why(host: Running) -> None:
    peer = await host.peer("n1")
    made = await lost(host, peer, "fail")
    done = await host.until(made, state="failed")
    assert (done["reason"], done["attempt"]) == ("n1 was lost", 1)
    await peer.heartbeat()
    assert await peer.report((made, 1), "completed", exit_code=0) == "refused", "too late"
    assert (await host.task(made))["state"] == "failed"


async def test_fail_comes_after_the_last_retry(host: Running) -> None:
    peer = await host.peer("n1")
    made = await lost(host, peer, "fail", retries=1)
    again = await host.until(made, attempt=2)
    assert (again["state"], again["retried"], again["attempts"][0]["state"]) == ("pending", 1, "lost")


async def test_what_nobody_can_know_stays(host: Running) -> None:
    peer = await host.peer("n1", cores=8)
    kept = await lost(host, peer, "keep")
    unfenced = await lost(host, peer, "requeue", fence=False)
    died = await lost(host, peer, "requeue")
    await peer.heartbeat(fences=[])  # its fence is not alive any more
    await host.until(unfenced, reason="n1 is unreachable; only `hakuriver task requeue --force` can move it")
    await eventually(lambda: host.host.losses.lease_left("n1") < 0)
    await host.host.losses.once()
    shown = [await host.task(each) for each in (kept, unfenced, died)]
    assert [(each["state"], each["attempt"]) for each in shown] == [("running", 1)] * 3
    assert shown[0]["reason"] == "n1 is unreachable"
    assert "--force" in shown[2]["reason"]


async def test_a_kill_that_was_asked_for_is_reached(host: Running) -> None:
    peer = await host.peer("n1")
    made = await lost(host, peer, "requeue")
    await host.tell(made, "kill")
    done = await host.until(made, state="killed")
    assert done["attempt"] == 1
    assert done["reason"].endswith("; n1 unreachable; fenced")


async def test_a_host_that_was_away_gives_a_full_lease(tmp_path: Path) -> None:
    async with running_host(tmp_path, flags=FLAGS) as first:
        made = await lost(first, await first.peer("n1"), "requeue")
        await first.until(made, reason="n1 is unreachable")
    begun = time.monotonic()
    async with running_host(tmp_path, flags=FLAGS | {"timing.lease": 60.0}) as again:
        left = again.host.losses.lease_left("n1")
        assert left + time.monotonic() - begun >= FLAGS["timing.lease"], (
            "all of it, however slow the start is"
        )
        assert (await again.task(made))["attempt"] == 1
        assert (await again.until(made, attempt=2))["state"] == "pending", (
            "the lease that it was given counts"
        )


async def test_a_shorter_lease_counts_only_after_a_boot(tmp_path: Path) -> None:
    async with running_host(tmp_path, flags={"timing.lease": 50.0}) as first:
        peer = await first.peer("n1")
    async with running_host(tmp_path, flags={"timing.lease": 5.0}) as again:
        moved = await again.peer("n1", register=False)
        moved.runner = peer.runner
        await moved.register()
        assert again.host.nodes["n1"].row.lease == 50.0
        await moved.register(boot_id="another")
        assert again.host.nodes["n1"].row.lease == 5.0


async def test_by_hand_where_it_is_safe_or_forced(host: Running) -> None:
    peer = await host.peer("n1", cores=8)
    kept = await lost(host, peer, "keep")
    failing = await lost(host, peer, "requeue", fence=False)
    with pytest.raises(Conflict, match="n1 is online"):
        await host.tell(kept, "requeue", force=True)
    await host.until(kept, reason="n1 is unreachable")
    for each in (kept, failing):
        with pytest.raises(Conflict, match="nobody can tell"):
            await host.tell(each, "requeue")
        moved = await host.tell(each, "requeue", force=True)
        assert (moved["state"], moved["attempt"]) == ("pending", 2)
    old = (await host.task(kept))["attempts"][0]
    assert old["state"] == "lost"
    assert "by operator" in old["reason"]
    with pytest.raises(Conflict, match="is on no node"):
        await host.tell(kept, "requeue", force=True)
    await host.tell(kept, "kill")
    with pytest.raises(Conflict, match="has ended already"):
        await host.tell(kept, "requeue", force=True)
    with pytest.raises(NotFound):
        await host.tell(4711, "requeue")


async def test_by_hand_before_the_lease_is_over(tmp_path: Path) -> None:
    async with running_host(tmp_path, flags=FLAGS | {"timing.lease": 600.0}) as host:
        peer = await host.peer("n1")
        made = await lost(host, peer, "fail")
        await host.until(made, reason="n1 is unreachable")
        with pytest.raises(Conflict, match="may run on n1 for another"):
            await host.tell(made, "requeue")
        assert (await host.tell(made, "requeue", force=True))["attempt"] == 2


async def test_what_comes_back_alive_is_ended_there(host: Running) -> None:
    peer = await host.peer("n1")
    made = await lost(host, peer, "keep")
    await host.until(made, reason="n1 is unreachable")
    await host.tell(made, "requeue", force=True)

    async def told() -> bool:
        await peer.heartbeat([(made, 1)])
        return any(key == (made, 1) and order.intent == "kill" for key, order in peer.intents)

    await eventually(told)
    assert await peer.report((made, 1), "killed", signal=15) == "refused"
    assert (await host.task(made))["attempt"] == 2
    await eventually(lambda: (made, 2) in peer.orders)
    assert await peer.report((made, 2), "running") == "applied"
    told_then = len(peer.intents)
    for _ in range(5):
        await peer.heartbeat([(made, 2), (made, 3), (2**70, 1), (-1, 1)], fences=[(2**70, 1), (made, 9)])
    assert all(key == (made, 1) for key, _ in peer.intents[told_then:]), (
        "nobody ends what lives or is unknown"
    )


async def test_an_unknown_policy_is_refused(host: Running) -> None:
    with pytest.raises(UsageError):
        await host.submit("true", on_node_loss="retry")
