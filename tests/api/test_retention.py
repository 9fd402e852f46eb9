"""Forgetting: ended tasks that are too old or too many, nothing alive, and never by a clock that jumped."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daemons.common.timeofday import DAY
from daemons.host.retention import Retention
from hakuriver.config import Retention as Limits
from hakuriver.errors import NotFound, Unreachable
from tests.api.conftest import Running
from tests.api.peer import eventually


class Clocks:
    """A wall clock that can be set, and one that can't."""

    def __init__(self) -> None:
        self.boot_id = "one"
        self.boot = 1000.0
        self.now = datetime.now(UTC)

    def wall(self) -> datetime:
        return self.now

    def boottime(self) -> float:
        return self.boot

    def pass_by(self, seconds: float) -> None:
        self.boot += seconds
        self.now += timedelta(seconds=seconds)


def retention(api: Running, clocks: Clocks, days: float = 90, count: int = 1000) -> Retention:
    limits = Limits(task_days=days, task_count=count)
    return Retention(
        api.host.store,
        api.host.logs,
        limits,
        wall=clocks.wall,
        boottime=clocks.boottime,
        boot_id=lambda: clocks.boot_id,
    )


async def ended(api: Running, count: int) -> list[int]:
    """Ids of tasks that have ended."""
    made = [(await api.submit("true", tags=["old"]))["id"] for _ in range(count)]
    for each in made:
        await api.tell(each, "kill")
    return made


async def ids(api: Running) -> list[int]:
    return sorted(each["id"] for each in (await api.tasks(limit=1000))["items"])


async def test_what_ended_long_ago_goes_with_all_that_belongs_to_it(api: Running, tmp_path: Path) -> None:
    clocks = Clocks()
    kept = retention(api, clocks, days=10)
    waiting = (await api.submit("true"))["id"]
    old = await ended(api, 3)
    outputs = tmp_path / "shared" / "task_outputs"
    outputs.mkdir(parents=True)
    (outputs / f"{old[0]}.out").write_text("text")
    (outputs / f"{waiting}.out").write_text("text")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not ours to remove")
    (outputs / f"{old[1]}.out").symlink_to(elsewhere)
    assert await kept.once() == 0
    clocks.pass_by(11 * 86400)
    async with api.watch(since=api.host.hub.cursor) as watcher:
        assert await kept.once() == 3
        lines = [await watcher.next("deleted") for _ in old]
        assert [line["id"] for line in lines] == old
    assert await ids(api) == [waiting]
    with pytest.raises(NotFound):
        await api.task(old[0])
    assert (await api.tasks(tag="old"))["items"] == []
    assert sorted(each.name for each in outputs.iterdir()) == sorted([f"{waiting}.out", f"{old[1]}.out"])
    assert elsewhere.exists()
    assert (await api.submit("true"))["id"] == old[-1] + 1, "an id is never used again"


async def test_a_node_whose_clock_is_years_behind_makes_nothing_old(api: Running) -> None:
    clocks = Clocks()
    kept = retention(api, clocks, days=10)
    peer = await api.peer("n1")
    made = (await api.submit("true"))["id"]
    await eventually(lambda: (made, 1) in peer.orders)
    at = "1970-01-01T00:00:07Z"
    assert (
        await peer.report((made, 1), "completed", exit_code=0, at=at, started_at=at, ended_at=at) == "applied"
    )
    assert await kept.once() == 0 and await ids(api) == [made]
    clocks.pass_by(9 * DAY)
    assert await kept.once() == 0
    clocks.pass_by(2 * DAY)
    assert await kept.once() == 1


async def test_too_many_go_oldest_first(api: Running) -> None:
    made = await ended(api, 150)
    live = (await api.submit("true"))["id"]
    assert await retention(api, Clocks(), count=20).once() == 130
    assert await ids(api) == [*made[-20:], live]
    assert await retention(api, Clocks(), count=20).once() == 0


async def test_a_clock_that_jumped_deletes_nothing_for_a_day(api: Running) -> None:
    clocks = Clocks()
    kept = retention(api, clocks, days=10)
    await ended(api, 2)
    assert await kept.once() == 0
    clocks.now += timedelta(days=400)
    assert await kept.once() == 0
    clocks.pass_by(DAY / 2)
    assert await kept.once() == 0
    clocks.now -= timedelta(days=400)  # it was corrected
    assert await kept.once() == 0
    clocks.pass_by(DAY + 1)
    assert await kept.once() == 0
    assert len(await ids(api)) == 2
    clocks.pass_by(10 * 86400)
    assert await kept.once() == 2, "time that really passed counts"


async def test_a_restart_does_not_believe_a_clock_that_jumped(api: Running) -> None:
    clocks = Clocks()
    await ended(api, 2)
    assert await retention(api, clocks, days=10).once() == 0
    clocks.now += timedelta(days=400)
    assert await retention(api, clocks, days=10).once() == 0
    clocks.pass_by(DAY / 2)
    assert await retention(api, clocks, days=10).once() == 0
    clocks.pass_by(DAY / 2 + 1)
    assert await retention(api, clocks, days=10).once() == 2, "a day later it is believed"


async def test_a_clock_of_another_boot_is_another_one(api: Running) -> None:
    clocks = Clocks()
    await ended(api, 2)
    assert await retention(api, clocks, days=10).once() == 0
    clocks.boot, clocks.boot_id = 10.0, "two"
    clocks.now += timedelta(days=11)
    assert await retention(api, clocks, days=10).once() == 2


async def test_a_shared_folder_out_of_order_postpones(api: Running, tmp_path: Path) -> None:
    (made,) = await ended(api, 1)
    (tmp_path / "shared").mkdir(exist_ok=True)
    (tmp_path / "shared" / "task_outputs").write_text("not a folder")
    with pytest.raises(Unreachable):
        await retention(api, Clocks(), count=0).once()
    assert await ids(api) == [made]


async def test_whoever_waits_for_it_hears_of_it(api: Running) -> None:
    (made,) = await ended(api, 1)
    async with api.watch(tasks=made) as watcher:
        await watcher.next("snapshot")
        await asyncio.gather(retention(api, Clocks(), count=0).once(), watcher.next("deleted"))
