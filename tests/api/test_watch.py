"""The watch stream: nothing missed, nothing doubled, nothing that a slow client could break."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from daemons.host.watch import RING
from hakuriver.errors import UsageError
from tests.api.conftest import Running, running_host
from tests.api.peer import eventually


def number(cursor: str) -> int:
    return int(cursor.partition("-")[2])


async def test_a_snapshot_then_every_change_once(api: Running) -> None:
    first = await api.submit("true")
    async with api.watch() as stream:
        snapshot = await stream.next()
        assert snapshot["type"] == "snapshot"
        assert [each["id"] for each in snapshot["tasks"]] == [first["id"]]
        assert snapshot["cluster"]["cursor"] == snapshot["cursor"]
        peer = await api.peer("n1")
        assert (await stream.next("node"))["node"]["state"] == "online"
        await stream.task(first["id"], "assigned")
        await peer.report((first["id"], 1), "running")
        assert await peer.send({**_report(first["id"], 1), "state": "running"}) == ["duplicate"]
        await peer.report((first["id"], 1), "completed", exit_code=0)
        running = await stream.next("task")
        ended = await stream.next("task")
        assert (running["task"]["state"], ended["task"]["state"]) == ("running", "completed")
        assert number(ended["cursor"]) == number(running["cursor"]) + 1
        assert ended["task"] == {
            key: value for key, value in (await api.task(first["id"])).items() if key != "attempts"
        }


def _report(task: int, sequence: int) -> dict[str, object]:
    return {"task": task, "attempt": 1, "sequence": sequence, "at": "2026-01-01T00:00:00Z"}


async def test_a_client_that_comes_back_gets_what_it_missed(api: Running) -> None:
    made = await api.submit("true")
    async with api.watch() as stream:
        cursor = (await stream.next("snapshot"))["cursor"]
    await api.tell(made["id"], "kill")
    more = await api.submit("true")
    await api.peer("n1")
    async with api.watch(since=cursor) as stream:
        lines = [await stream.next("snapshot", "task") for _ in range(2)]
        assert [(each["type"], each["task"]["id"]) for each in lines] == [
            ("task", made["id"]),
            ("task", more["id"]),
        ]
        assert (await stream.next("node"))["node"]["name"] == "n1", "nodes are told as they are now"


async def test_an_unknown_past_or_another_epoch_gets_a_snapshot(api: Running) -> None:
    await api.submit("true")
    for cursor in ("7-1", "1-999999"):
        async with api.watch(since=cursor) as stream:
            assert (await stream.next())["type"] == "snapshot"
    for nonsense in ("x", "1", "1-", "-1", "1-x", "1-٣"):
        with pytest.raises(UsageError):
            async with api.watch(since=nonsense):
                pass


async def test_older_than_the_ring_is_a_snapshot(api: Running) -> None:
    made = await api.submit("true")
    async with api.watch() as stream:
        cursor = (await stream.next("snapshot"))["cursor"]
    await api.host.store.write(lambda tx: tx.publish_tasks([made["id"]] * RING))
    async with api.watch(since=cursor) as stream:
        assert (await stream.next("task", "snapshot"))["type"] == "task", "the ring holds as many"
    await api.tell(made["id"], "kill")
    async with api.watch(since=cursor) as stream:
        assert (await stream.next())["type"] == "snapshot"


async def test_a_restart_keeps_the_epoch_and_a_cursor_that_is_up_to_date(tmp_path: Path) -> None:
    async with running_host(tmp_path) as api:
        await api.submit("true")
        cluster = await api.user.request("GET", "/api/cluster")
    async with running_host(tmp_path) as api:
        assert (await api.user.request("GET", "/api/cluster")) == cluster
        async with api.watch(since=cluster["cursor"]) as stream:
            await api.submit("true")
            assert (await stream.next("task", "snapshot"))["type"] == "task"
        async with api.watch(since="1-0") as stream:
            assert (await stream.next())["type"] == "snapshot"


async def test_only_some_tasks(api: Running) -> None:
    one, two, three = [await api.submit("true") for _ in range(3)]
    async with api.watch(tasks=f"{one['id']},{three['id']},999") as stream:
        snapshot = await stream.next()
        assert [each["id"] for each in snapshot["tasks"]] == [three["id"], one["id"]]
        assert snapshot["nodes"] == []
        await api.tell(two["id"], "kill")
        await api.tell(one["id"], "kill")
        line = await stream.next()
        assert (line["type"], line["task"]["id"]) == ("task", one["id"])


async def test_silence_is_not_death(api: Running) -> None:
    async with api.watch() as stream:
        cursor = (await stream.next("snapshot"))["cursor"]
        alive = await stream.next("alive", "snapshot", "node", "task", "deleted")
        assert alive == {"type": "alive", "cursor": cursor}


async def test_measured_use_is_shown_without_a_number(api: Running) -> None:
    peer = await api.peer("n1")
    async with api.watch() as stream:
        cursor = (await stream.next("snapshot"))["cursor"]
        await peer.heartbeat()
        line = await stream.next("node")
        assert line["node"]["usage"]["cpu_percent"] == 12.5
        assert line["cursor"] == cursor


async def test_a_slow_client_gets_a_snapshot_and_holds_up_nobody(api: Running) -> None:
    """It reads nothing while more than a megabyte happens: afterwards one snapshot instead of a long tale."""
    made = await api.submit("x" * 60_000, *["y" * 60_000] * 3)
    parts = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=4096)
    head = f"GET /api/watch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.tokens.user}\r\n\r\n"
    writer.write(head.encode())
    await eventually(lambda: api.host.hub.clients == 1)
    for _ in range(60):
        await api.tell(made["id"], "kill", delay=60)
        await api.tell(made["id"], "unkill")
    last = (await api.submit("last"))["id"]
    await reader.readuntil(b"\r\n\r\n")
    text = b""
    async with asyncio.timeout(20):
        while f'"id":{last},'.encode() not in text[-300_000:]:
            size = int((await reader.readline()).strip(), 16)
            text += (await reader.readexactly(size + 2))[:-2]
    writer.close()
    kinds = [part.partition(b'"')[0].decode() for part in text.split(b'{"type":"')[1:]]
    assert kinds[0] == "snapshot"
    assert kinds.count("snapshot") == 2
    assert len(kinds) < 100, "most of what happened was never told"
    await eventually(lambda: api.host.hub.clients == 0)


async def test_many_changes_at_once_arrive_in_order(api: Running) -> None:
    async with api.watch() as stream:
        await stream.next("snapshot")
        await asyncio.gather(*[api.submit("true") for _ in range(100)])
        numbers = [number((await stream.next("task"))["cursor"]) for _ in range(100)]
        assert numbers == list(range(numbers[0], numbers[0] + 100))


async def test_a_large_snapshot_does_not_stop_the_host(api: Running) -> None:
    await api.peer("n1")
    for _ in range(3):
        await api.submit_all("true", targets=["n1"] * 5000, cores=2)

    async def snapshot() -> int:
        async with api.user.open("GET", "/api/watch") as response:
            async for line in response.aiter_lines():
                return len(json.loads(line)["tasks"])
        return 0

    loop = asyncio.get_running_loop()
    longest, turns, begun = 0.0, 0, loop.time()
    reading = asyncio.create_task(api.host.hub._snapshot(None))
    while not reading.done():
        before = loop.time()
        await asyncio.sleep(0.001)
        longest, turns = max(longest, loop.time() - before), turns + 1
    assert turns >= 20 and longest < (loop.time() - begun) / 2, "the loop went on while the snapshot was made"
    assert await snapshot() == 15_000
