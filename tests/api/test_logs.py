"""Logs: from the node, from the shared copy while it is away, waiting for what does not exist yet."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete

from daemons.host.logs import read_range
from daemons.host.schema import node
from hakuriver.errors import PRUNED, CannotFit, NotFound, Unreachable, UsageError
from hakuriver.paths import HEADER_ENDED, HEADER_NOTE, HEADER_OFFSET, HEADER_SIZE, host_path
from tests.api.conftest import Running
from tests.api.peer import Peer, eventually


async def read(api: Running, task: int, stream: str = "stdout", **query: Any) -> tuple[bytes, int, int, str]:
    async with api.user.open("GET", host_path("logs", id=task, stream=stream), query=query) as answer:
        headers: httpx.Headers = answer.headers
        data = await answer.aread()
    return data, int(headers[HEADER_OFFSET]), int(headers[HEADER_SIZE]), headers[HEADER_ENDED]


async def away(peer: Peer) -> None:
    peer.address = "http://127.0.0.1:1"
    await peer.register()


async def test_bytes_come_from_the_node(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.running_on(peer, "echo")
    key = (made["id"], 1)
    peer.logs[key, "stdout"] = b"hello \xff\x00 world"
    assert await read(api, made["id"]) == (b"hello \xff\x00 world", 0, 14, "0")
    assert await read(api, made["id"], offset=6, limit=2) == (b"\xff\x00", 6, 14, "0")
    assert await read(api, made["id"], "stderr") == (b"", 0, 0, "0")
    peer.ended.add(key)
    assert (await read(api, made["id"], attempt=1))[3] == "1"
    with pytest.raises(NotFound):
        await read(api, made["id"], attempt=2)
    with pytest.raises(NotFound):
        await read(api, made["id"], "stdin")
    with pytest.raises(NotFound):
        await read(api, 999)


@pytest.mark.parametrize(
    "query", [{"offset": "-1"}, {"limit": "0"}, {"limit": 2**20 + 1}, {"wait": "31"}, {"wait": "nan"}]
)
async def test_ranges_are_checked(api: Running, query: dict[str, str]) -> None:
    made = await api.submit("true")
    with pytest.raises(UsageError):
        await read(api, made["id"], **query)


async def test_a_follower_waits_from_before_the_start(api: Running) -> None:
    made = await api.submit("true")
    assert await read(api, made["id"], wait=0.05) == (b"", 0, 0, "0")
    following = asyncio.create_task(read(api, made["id"], wait=20))
    await asyncio.sleep(0)
    peer = await api.peer("n1")
    await eventually(lambda: peer.orders)
    peer.logs[(made["id"], 1), "stdout"] = b"x"
    await peer.report((made["id"], 1), "running")
    assert (await asyncio.wait_for(following, 5))[0] == b"x"


async def test_a_follower_of_a_task_that_is_killed_before_it_starts_ends(api: Running) -> None:
    made = await api.submit("true")
    following = asyncio.create_task(read(api, made["id"], wait=20))
    await asyncio.sleep(0.05)
    await api.tell(made["id"], "kill")
    assert await asyncio.wait_for(following, 5) == (b"", 0, 0, "1")


async def test_what_never_ran_has_no_log_whatever_the_node_has_under_its_number(api: Running) -> None:
    peer = await api.peer("n1")
    other = await api.running_on(peer, "true")
    peer.refuse = CannotFit("no")
    made = await api.submit("true")
    await api.until(made["id"], state="failed")
    peer.orders[made["id"], 1] = peer.orders[other["id"], 1]
    peer.logs[(made["id"], 1), "stdout"] = b"of an earlier life"
    assert await read(api, made["id"]) == (b"", 0, 0, "1")


async def test_the_shared_copy_serves_while_the_node_is_away(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.running_on(peer, "echo")
    await away(peer)
    with pytest.raises(Unreachable, match="n1 doesn't answer"):
        await read(api, made["id"])
    folder = Path(api.host.settings.paths.shared_dir)
    (folder / "task_outputs").mkdir(parents=True)
    (folder / "task_errors").mkdir()
    (folder / "task_outputs" / f"{made['id']}.out").write_bytes(b"one\ntwo\nthree")
    assert await read(api, made["id"]) == (b"one\ntwo\nthree", 0, 13, "0")
    assert await read(api, made["id"], tail=2) == (b"two\nthree", 4, 13, "0")
    secret = folder / "secret"
    secret.write_text("secret")
    (folder / "task_errors" / f"{made['id']}.err").symlink_to(secret)
    with pytest.raises(Unreachable):
        await read(api, made["id"], "stderr")


async def note(api: Running, task: int) -> str:
    async with api.user.open("GET", host_path("logs", id=task, stream="stdout"), query={}) as answer:
        found: str = answer.headers.get(HEADER_NOTE, "")
        return found


async def ended_with_copy(api: Running, peer: Peer) -> int:
    """A task that has ended, with a copy of its output in the shared folder."""
    made = await api.running_on(peer, "echo")
    await peer.report((made["id"], 1), "completed", exit_code=0)
    folder = Path(api.host.settings.paths.shared_dir) / "task_outputs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{made['id']}.out").write_bytes(b"one\ntwo")
    return int(made["id"])


async def test_a_copy_says_what_it_is(api: Running) -> None:
    peer = await api.peer("n1")
    task = await ended_with_copy(api, peer)
    assert await note(api, task) == "", "the node has the truth"
    peer.refuse_logs = NotFound("on 2026-01-31, by its age", code=PRUNED)
    assert await read(api, task) == (b"one\ntwo", 0, 7, "1")
    pruned = f"the logs of task {task} were pruned from n1 on 2026-01-31, by its age"
    assert await note(api, task) == f"{pruned}; this is its copy in the shared folder"
    with pytest.raises(NotFound, match=pruned) as raised:
        await read(api, task, "stderr")
    assert raised.value.hint.startswith("and there is no copy in /")
    await away(peer)
    assert await read(api, task) == (b"one\ntwo", 0, 7, "0")
    assert await note(api, task) == "node n1 doesn't answer; this is the shared copy, which may lag"


async def test_the_copy_is_what_a_removed_node_leaves(api: Running) -> None:
    peer = await api.peer("n1")
    task = await ended_with_copy(api, peer)
    await api.host.store.write(lambda tx: tx.execute(delete(node).where(node.c.name == "n1")) and None)
    assert await read(api, task) == (b"one\ntwo", 0, 7, "1")
    assert await note(api, task) == "node n1 was removed; this is its copy in the shared folder"
    with pytest.raises(NotFound, match="node n1 was removed"):
        await read(api, task, "stderr")


async def test_a_hung_shared_folder_does_not_hang_the_host(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons.host.logs.READ_SECONDS", 0.1)
    peer = await api.peer("n1")
    made = await api.running_on(peer, "echo")
    await away(peer)
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hangs(*_: object) -> None:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10)

    monkeypatch.setattr("daemons.host.logs.read_range", hangs)
    with pytest.raises(Unreachable) as raised:
        await read(api, made["id"])
    assert "doesn't answer either" in raised.value.hint
    release.set()


lines = st.lists(st.binary(max_size=5).map(lambda part: part.replace(b"\n", b"x")), max_size=8)


@given(lines, st.booleans(), st.integers(0, 10), st.integers(1, 20))
def test_a_tail_is_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], end: bool, tail: int, limit: int
) -> None:
    data = b"\n".join(parts) + (b"\n" if end and parts else b"")
    path = tmp_path_factory.getbasetemp() / "tail"
    path.write_bytes(data)
    found, offset, size = read_range(path, 0, limit, tail)
    kept = [line + b"\n" for line in data.split(b"\n")]
    if kept:
        kept[-1] = kept[-1][:-1]
    if kept and not kept[-1]:
        kept.pop()
    expected = b"".join(kept[len(kept) - tail :] if tail < len(kept) else kept) if tail else b""
    assert (offset, size) == (len(data) - len(expected), len(data))
    assert found == expected[:limit]


def test_a_long_tail_crosses_blocks(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"%06d %s\n" % (number, b"x" * (number % 90)) for number in range(5000)))
    found, offset, size = read_range(path, 0, 2**20, 3000)
    assert found.startswith(b"002000 ")
    assert offset + len(found) == size
