"""What the journal tells again in a new life of the cluster: all that it knows, and what each was given."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemons.runner.journal import Journal
from daemons.runner.model import Phase
from hakuriver.lifecycle import State
from hakuriver.nodewire import AttemptOrder, AttemptSpec, Given, Report, ReportResult

CLUSTER = "c" * 32
STARTED = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    found = Journal(tmp_path / "journal.db")
    await found.call(found.open)
    await found.call(found.bind, CLUSTER, 1)
    yield found
    found.close()


async def accepted(journal: Journal, task: int, attempt: int = 1) -> None:
    spec = AttemptSpec(
        task=task,
        attempt=attempt,
        owner="ann",
        command=["true"],
        executor="process",
        cores=1,
        memory=0,
        target="n1:1::3",
        numa=1,
        gpus=[3],
        gpu_uuids=["GPU-3"],
    )
    order = AttemptOrder(cluster=CLUSTER, epoch=1, digest=spec.digest(), spec=spec)
    await journal.call(journal.accept, order, None)


async def reported(journal: Journal, task: int, phase: Phase, state: State, **facts: object) -> None:
    known = {"state": state, "at": datetime.now(UTC), "executor": "process"}
    await journal.call(journal.report, (task, 1), phase, known | facts)


async def all_acknowledged(journal: Journal) -> None:
    reports = await journal.call(journal.outbox, 100)
    await journal.call(
        journal.acknowledge,
        [
            ReportResult(task=each.task, attempt=each.attempt, sequence=each.sequence, result="applied")
            for each in reports
        ],
    )


async def test_everything_is_told_again_with_what_it_was_given(journal: Journal) -> None:
    for task in (4, 3, 2, 1):
        await accepted(journal, task)
    for task in (1, 2, 4):
        await reported(journal, task, Phase.RUNNING, State.RUNNING, started_at=STARTED)
    await reported(journal, 1, Phase.ENDED, State.FAILED, exit_code=7)
    await reported(journal, 2, Phase.RUNNING, State.PAUSED, intent_version=5)
    await reported(journal, 4, Phase.ENDED, State.COMPLETED, exit_code=0)
    await all_acknowledged(journal)
    await journal.call(journal.forget, [(4, 1)])
    assert (await journal.call(journal.open_keys))[1] == [(2, 1), (3, 1)]
    await journal.call(journal.bind, CLUSTER, 2)
    told = {each.task: each for each in await journal.call(journal.outbox, 100)}
    assert [(told[task].state, told[task].sequence) for task in (1, 2, 3)] == [
        (State.FAILED, 2),
        (State.PAUSED, 2),
        (State.ASSIGNED, 1),
    ]
    given = Given(numa=1, gpus=[3], gpu_uuids=["GPU-3"])
    assert [told[task].given for task in (1, 2, 3)] == [given] * 3
    assert (told[1].exit_code, told[1].started_at, told[2].started_at) == (7, STARTED, STARTED)
    assert (told[4].state, told[4].given) == (State.LOST, Given()), "of what was pruned only that it is over"
    assert (await journal.call(journal.open_keys))[1] == [(1, 1), (2, 1), (3, 1), (4, 1)]
    await all_acknowledged(journal)
    assert (await journal.call(journal.open_keys))[1] == [(2, 1), (3, 1)]
    await reported(journal, 2, Phase.RUNNING, State.RUNNING)
    await reported(journal, 3, Phase.RUNNING, State.RUNNING)
    assert [each.sequence for each in await journal.call(journal.outbox, 100)] == [3, 2]


async def test_what_waits_already_is_told_once_with_what_it_was_given(journal: Journal) -> None:
    await accepted(journal, 1)
    await reported(journal, 1, Phase.RUNNING, State.RUNNING, started_at=STARTED)
    await reported(journal, 1, Phase.ENDED, State.FAILED, signal=9)
    await journal.call(journal.bind, CLUSTER, 2)

    def shown(report: Report) -> tuple[int, bool]:
        return report.sequence, report.given is not None

    assert [shown(each) for each in await journal.call(journal.outbox, 100)] == [(1, False), (2, True)]


async def test_the_same_life_hears_nothing_twice(journal: Journal) -> None:
    await accepted(journal, 1)
    await reported(journal, 1, Phase.ENDED, State.FAILED, exit_code=7)
    await all_acknowledged(journal)
    await journal.call(journal.bind, CLUSTER, 1)
    assert await journal.call(journal.outbox, 100) == []
