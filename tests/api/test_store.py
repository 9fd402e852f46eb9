"""The store: all of a group or an error, nothing lost, nothing half done, whatever the disk does."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from daemons.host.main import database_lock
from daemons.host.migrate import migrate
from daemons.host.schema import meta
from daemons.host.store import Change, Store, Tx
from hakuriver.errors import Conflict, StorageFull, UsageError
from tests.api.conftest import running_host


def put(key: str) -> Callable[[Tx], object]:
    return lambda tx: tx.execute(insert(meta).values(key=key, value="x"))


async def keys(store: Store) -> set[str]:
    found = await store.read(lambda connection: set(connection.execute(select(meta.c.key)).scalars()))
    return found - {"cluster", "epoch", "sequence"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    migrate(tmp_path / "a.db")
    opened = Store(tmp_path / "a.db", lambda changes: None)
    opened.open()
    yield opened
    await opened.close()


async def test_an_operation_that_raises_fails_alone(store: Store) -> None:
    def broken(tx: Tx) -> None:
        tx.execute(insert(meta).values(key="never", value=""))
        raise UsageError("no")

    operations = [put("a"), broken, put("b"), put("a"), put("c")]
    results = await asyncio.gather(*map(store.write, operations), return_exceptions=True)
    assert [isinstance(each, BaseException) for each in results] == [False, True, False, True, False]
    assert isinstance(results[1], UsageError)
    assert await keys(store) == {"a", "b", "c"}


async def test_operations_that_come_together_are_committed_together(store: Store) -> None:
    """As another connection sees it: SQLite's count of commits grows far less often than writes return."""
    seen: list[object] = []

    async def write(number: int) -> None:
        await store.write(put(f"k{number}"))
        seen.append(other.execute("PRAGMA data_version").fetchone()[0])

    with closing(sqlite3.connect(store._path)) as other:
        await asyncio.gather(*[write(number) for number in range(64)])
        assert other.execute("SELECT count(*) FROM meta WHERE key LIKE 'k%'").fetchone() == (64,)
    assert len(set(seen)) < 32


async def test_closing_writes_what_waits(tmp_path: Path) -> None:
    migrate(tmp_path / "a.db")
    first = Store(tmp_path / "a.db", lambda changes: None)
    first.open()
    waiting = [asyncio.ensure_future(first.write(put(f"k{number}"))) for number in range(50)]
    await asyncio.sleep(0)
    await first.close()
    assert all(each.done() and each.exception() is None for each in waiting)
    second = Store(tmp_path / "a.db", lambda changes: None)
    second.open()
    assert len(await keys(second)) == 50
    await second.close()


async def test_changes_are_told_in_commit_order_before_the_writer_goes_on(tmp_path: Path) -> None:
    async with running_host(tmp_path) as api:
        told: list[int] = []
        ours = api.host.store._committed

        def committed(changes: Sequence[Change]) -> None:
            told.extend(each.sequence for each in changes)
            ours(changes)

        api.host.store._committed = committed
        made = await asyncio.gather(*[api.submit("true") for _ in range(40)])
        number = made[0]["id"]

        def refused(tx: Tx) -> None:
            tx.publish_tasks([number])
            raise UsageError("no")

        with pytest.raises(UsageError):
            await api.host.store.write(refused)
        await api.host.store.write(lambda tx: tx.publish_tasks([number]))
        assert told == list(range(1, len(told) + 1)), "what was rolled back takes no number"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of 8 MB where root may mount one; nothing otherwise."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until there is no room at all."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(descriptor)


async def test_a_full_disk_answers_507_loses_nothing_and_heals(small_disk: Path) -> None:
    async with running_host(small_disk) as api:
        made = [(await api.submit("true"))["id"]]
        filler = small_disk / "filler"
        if small_disk.is_mount():
            fill(filler)
        else:
            await api.host.store.write(lambda tx: tx.connection.exec_driver_sql("PRAGMA max_page_count=1"))
        refused = 0
        for _ in range(400):
            results = await asyncio.gather(
                *[api.submit("x" * 100_000) for _ in range(3)], return_exceptions=True
            )
            made.extend(each["id"] for each in results if isinstance(each, dict))
            refused += sum(isinstance(each, StorageFull) for each in results)
            assert all(isinstance(each, dict | StorageFull) for each in results), results
            if refused > 5:
                break
        assert refused > 5
        assert (await api.task(made[0]))["state"] == "pending", "reading goes on"
        filler.unlink(missing_ok=True)
        await api.host.store.write(lambda tx: tx.connection.exec_driver_sql("PRAGMA max_page_count=100000"))
        made.append((await api.submit("healed"))["id"])
        assert {each["id"] for each in (await api.tasks(limit=1000))["items"]} == set(made)
        async with api.watch() as stream:
            assert len((await stream.next("snapshot"))["tasks"]) == len(made)
    async with running_host(small_disk) as api:
        assert {each["id"] for each in (await api.tasks(limit=1000))["items"]} == set(made)


def test_two_hosts_never_share_a_database(tmp_path: Path) -> None:
    lock = tmp_path / "host.lock"
    with database_lock(lock), pytest.raises(Conflict, match=f"pid {os.getpid()}"), database_lock(lock):
        pass
    with database_lock(lock):
        pass
