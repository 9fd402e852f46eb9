"""The mirror equals what the host said, whatever order it said it in; the feed survives losses."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.views import TaskView
from tests.tui.peer import Peer, node, peer, running, task
from tests.tui.peer_environments import environment, work
from tests.tui.use import until
from tui.live import Changes, Coalescer, Feed, Link, Mirror
from tui.remote import Remote
from tui.watch_lines import BadLine

STATES = ["pending", "running", "failed", "completed"]


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from([*STATES, None])), max_size=60))
def test_mirror_equals_the_last_word_of_each_key(history: list[tuple[int, str | None]]) -> None:
    mirror, expected = Mirror(), dict[int, TaskView]()
    mirror.apply({"type": "snapshot", "cursor": "1-0", "nodes": [], "tasks": []})
    for sequence, (key, state) in enumerate(history, 1):
        cursor = f"1-{sequence}"
        if state is None:
            changes = mirror.apply({"type": "deleted", "id": key, "cursor": cursor})
            expected.pop(key, None)
        else:
            expected[key] = task(key, state=state)
            changes = mirror.apply({"type": "task", "task": expected[key], "cursor": cursor})
        assert changes == Changes(tasks=frozenset({key}))
        assert mirror.cursor == cursor
    assert mirror.tasks == expected
    assert +mirror.task_states == Counter(each["state"] for each in expected.values())


def test_snapshot_replaces_everything() -> None:
    mirror = Mirror()
    mirror.apply({"type": "snapshot", "cursor": "1-1", "nodes": [node("old")], "tasks": [task(1)]})
    changes = mirror.apply(
        {"type": "snapshot", "cursor": "1-2", "nodes": [node("n1")], "tasks": [running(2)]}
    )
    assert changes.reset
    assert set(mirror.nodes) == {"n1"}
    assert set(mirror.tasks) == {2}
    assert +mirror.task_states == {"running": 1}


def test_kills_that_can_be_taken_back_are_known() -> None:
    held = {"intent": "kill", "intent_by": "ann", "intent_due_at": "2026-01-31T12:00:05.000Z"}
    mirror = Mirror()
    mirror.apply(
        {"type": "snapshot", "cursor": "1-1", "nodes": [], "tasks": [running(1, **held), running(2)]}
    )
    assert mirror.held == {1}
    mirror.apply({"type": "task", "cursor": "1-2", "task": running(2, **held)})
    mirror.apply({"type": "task", "cursor": "1-3", "task": running(1)})
    assert mirror.held == {2}
    mirror.apply({"type": "deleted", "cursor": "1-4", "id": 2})
    assert mirror.held == set()


@pytest.mark.parametrize(
    "line",
    [None, [], "x", {}, {"type": "task", "cursor": "1-1"}, {"type": "task", "cursor": "1-1", "task": 4}],
)
def test_lines_that_make_no_sense_are_refused(line: object) -> None:
    with pytest.raises(BadLine):
        Mirror().apply(line)


def test_a_kind_of_line_from_the_future_is_skipped() -> None:
    mirror = Mirror()
    assert mirror.apply({"type": "weather", "cursor": "1-7"}) == Changes()
    assert mirror.cursor == "1-7"


async def test_notifications_are_few_and_lose_nothing() -> None:
    seen: list[Changes] = []
    coalescer = Coalescer(seen.append, interval=0.05)
    for key in range(100):
        coalescer.add(Changes(tasks=frozenset({key})))
        await asyncio.sleep(0.001)
    await until(lambda: frozenset().union(*(each.tasks for each in seen)) == frozenset(range(100)))
    assert len(seen) <= 12
    coalescer.close()


class Watched:
    """A feed on a peer, with what it told."""

    def __init__(self, remote: Remote) -> None:
        self.mirror = Mirror()
        self.seen: list[Changes] = []
        self.links: list[Link] = []
        self.feed = Feed(self.mirror, remote, self._notify, interval=0.01, delays=(0.05,), silence=5)
        self.running = asyncio.create_task(self.feed.run())

    def _notify(self, changes: Changes) -> None:
        self.seen.append(changes)
        self.links.append(self.mirror.status.link)

    async def stop(self, remote: Remote) -> None:
        self.running.cancel()
        await asyncio.wait([self.running])
        await remote.aclose()


async def test_feed_follows_the_host_and_comes_back_by_cursor() -> None:
    host = Peer()
    await host.start()
    host.put(node("n1"), running(1))
    remote = Remote(host.endpoint)
    watched = Watched(remote)
    await until(lambda: watched.mirror.status.link is Link.LIVE and 1 in watched.mirror.tasks)
    # U+2028 is a line break to Python and httpx, but not to NDJSON
    host.put(running(2, command=["echo", "a\u2028b\x85c"]))
    await until(lambda: 2 in watched.mirror.tasks)
    assert watched.mirror.tasks[2]["command"][1] == "a\u2028b\x85c"

    cursor, port = host.cursor, host.port
    await host.stop()
    await until(lambda: watched.mirror.status.link is Link.LOST)
    assert set(watched.mirror.tasks) == {1, 2}, "what was known stays"
    assert watched.mirror.status.ever_live and watched.mirror.status.retry_at is not None
    host._sequence = int(cursor.partition("-")[2])
    await host.start(port)
    await until(lambda: watched.mirror.status.link is Link.LIVE)
    assert host.seen[-1] == ("GET", "watch", cursor)
    await watched.stop(remote)
    await host.stop()


async def test_feed_says_why_it_was_never_connected() -> None:
    async with peer() as host:
        endpoint = host.endpoint
    remote = Remote(endpoint)
    watched = Watched(remote)
    await until(lambda: watched.mirror.status.link is Link.LOST)
    assert not watched.mirror.status.ever_live
    assert "doesn't answer" in watched.mirror.status.error
    await watched.stop(remote)


async def test_nonsense_from_the_host_costs_a_snapshot_and_nothing_else() -> None:
    async with peer() as host:
        host.put(task(1))
        remote = Remote(host.endpoint)
        watched = Watched(remote)
        await until(lambda: 1 in watched.mirror.tasks)
        host.send({"type": "task", "task": "nonsense"})
        await until(lambda: Link.LOST in watched.links and watched.mirror.status.link is Link.LIVE)
        assert host.seen[-1] == ("GET", "watch", None), "without a cursor: a snapshot"
        await watched.stop(remote)


async def test_a_silent_host_counts_as_lost() -> None:
    async with peer() as host:
        remote = Remote(host.endpoint)
        mirror = Mirror()
        feed = Feed(mirror, remote, lambda _: None, delays=(30,), silence=0.2)
        running_feed = asyncio.create_task(feed.run())
        await until(lambda: mirror.status.link is Link.LOST)
        assert "said nothing" in mirror.status.error
        feed.retry_now()
        await until(lambda: mirror.status.link is Link.LIVE)
        running_feed.cancel()
        await asyncio.wait([running_feed])
        await remote.aclose()


def test_environments_are_replaced_and_only_those_that_differ_are_named() -> None:
    mirror = Mirror()
    snapshot = {"type": "snapshot", "cursor": "1-1", "nodes": [], "tasks": []}
    mirror.apply({**snapshot, "environments": [environment("a"), environment("b"), environment("c")]})
    assert set(mirror.environments) == {"a", "b", "c"}
    line = {"type": "environments", "cursor": "1-2"}
    busy = environment("b", work=work("packing", 1, 2))
    changes = mirror.apply({**line, "environments": [environment("a"), busy, environment("d")]})
    assert changes == Changes(environments=frozenset({"b", "c", "d"}))
    assert set(mirror.environments) == {"a", "b", "d"} and mirror.environments["b"]["work"] == busy["work"]
    assert mirror.apply({**line, "environments": list(mirror.environments.values())}) == Changes()
    mirror.apply(snapshot)
    assert mirror.environments == {}, "a host without environments"
    with pytest.raises(BadLine):
        mirror.apply({**line, "environments": [4]})
