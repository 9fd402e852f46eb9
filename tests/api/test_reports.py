"""Reports: applied once, in order, legal or refused, whatever is sent and how often."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.host.reports import Facts, apply
from hakuriver.errors import NotFound
from hakuriver.lifecycle import ENDED, Intent, State, apply_report
from hakuriver.nodewire import Report
from tests.api.conftest import Running
from tests.api.peer import eventually, report


def facts(state: State, **more: Any) -> Facts:
    values: dict[str, Any] = dict.fromkeys(Facts.__dataclass_fields__)
    values |= {"task": 1, "number": 1, "node": "n1", "state": state, "reason": "", "oom_events": 0}
    values |= {
        "report_sequence": 0,
        "intent": Intent.RUN,
        "intent_version": 0,
        "intent_done": 0,
        "current": True,
    }
    return Facts(**values | more)


def said(state: State, sequence: int, **more: Any) -> Report:
    return Report(
        task=1, attempt=1, sequence=sequence, state=state, at=datetime(2026, 1, 1, tzinfo=UTC), **more
    )


states = st.sampled_from(sorted(State))


@given(states, st.lists(st.tuples(states, st.integers(1, 6)), max_size=12))
def test_any_reports_in_any_order_move_only_along_the_table(
    start: State, told: list[tuple[State, int]]
) -> None:
    now = facts(start)
    for state, sequence in told:
        result, message, after = apply(now, said(state, sequence), "n1")
        if sequence <= now.report_sequence:
            assert (result, after) == ("duplicate", None)
            continue
        assert after is not None
        assert after.report_sequence == sequence
        expected = apply_report(now.state, state) if now.current else None
        assert (result == "applied") == (expected is not None)
        assert after.state == (now.state if expected is None else expected)
        assert bool(message) == (result == "refused")
        assert (after.ended_at is None) or after.state in ENDED or not after.current or now.ended_at
        now = after


@given(states, states, st.integers(0, 5), st.one_of(st.none(), st.integers(0, 9)))
def test_an_intent_is_done_up_to_what_was_asked(
    before: State, told: State, asked: int, done: int | None
) -> None:
    now = facts(before, intent_version=asked)
    _, _, after = apply(now, said(told, 1, intent_version=done), "n1")
    assert after is not None
    assert after.intent_done <= asked


def test_strangers_are_refused() -> None:
    assert apply(None, said(State.RUNNING, 1), "n1")[0] == "refused"
    assert apply(facts(State.RUNNING), said(State.COMPLETED, 1), "n2")[0] == "refused"
    assert apply(facts(State.RUNNING, current=False), said(State.COMPLETED, 1), "n1")[0] == "refused"


async def test_reports_are_acknowledged_once_and_for_all(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.submit("true")
    key = (made["id"], 1)
    await eventually(lambda: key in peer.orders)
    batch = [
        report(key, "preparing", 1),
        report(key, "running", 2, executor="process"),
        report(key, "running", 2),
        report(key, "preparing", 3),
        report(key, "completed", 4, exit_code=0),
        report(key, "failed", 5, exit_code=1),
        report((999, 1), "running", 1),
        report((2**70, 1), "running", 1),
    ]
    results = await peer.send(*batch)
    assert results == [
        "applied",
        "applied",
        "duplicate",
        "refused",
        "applied",
        "refused",
        "refused",
        "refused",
    ]
    assert set(await peer.send(*batch[:6])) == {"duplicate"}, "even what was refused is over"
    done = await api.task(made["id"])
    assert (done["state"], done["exit_code"], done["executor"]) == ("completed", 0, "process")


async def test_a_gap_is_applied(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.submit("true")
    key = (made["id"], 1)
    await eventually(lambda: key in peer.orders)
    assert await peer.send(report(key, "running", 5)) == ["applied"]
    assert await peer.send(report(key, "completed", 4, exit_code=0)) == ["duplicate"]


async def test_a_node_that_never_registered_is_told_to(api: Running) -> None:
    peer = await api.peer("n1", register=False)
    with pytest.raises(NotFound):
        await peer.send(report((1, 1), "running", 1))
    assert (await peer.heartbeat())["introduce"] is True


async def test_times_and_texts_of_all_kinds(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.submit("true")
    key = (made["id"], 1)
    await eventually(lambda: key in peer.orders)
    odd = {"started_at": "0001-01-01T00:00:00+14:00", "ended_at": "9999-12-31T23:59:59-14:00"}
    reason = 'a "quoted"\n\x1b[31m line\u2028 \U0001f600'
    assert (
        await peer.report(key, "failed", reason=reason, error=reason, signal=9, oom_events=2, **odd)
        == "applied"
    )
    done = await api.task(made["id"])
    assert (done["reason"], done["error"], done["signal"], done["oom_events"]) == (reason, reason, 9, 2)
    assert done["started_at"].endswith("Z")
