"""What a runner tells once more to a host that was restored from a backup: all that its journal remembers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from daemons.runner.model import Key
from hakuriver.lifecycle import State
from hakuriver.nodewire import Given, Report

_LAST = 1_000_000
"""Sequence of the report about a forgotten attempt: above any that it sent itself."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """An attempt of the journal; ``spec`` and ``last_report`` (None before the first) are JSON texts."""

    task: int
    attempt: int
    sequence: int
    state: str
    spec: str
    last_report: str | None


def told_again(known: Remembered) -> Report:
    """The newest report of an attempt with what it was given; one that never reported says where it is."""
    spec = json.loads(known.spec)
    given = Given(**{name: spec[name] for name in Given.model_fields})
    if known.last_report is not None:
        return Report.model_validate_json(known.last_report).model_copy(update={"given": given})
    return Report(
        task=known.task,
        attempt=known.attempt,
        sequence=known.sequence,
        state=State(known.state),
        at=datetime.now(UTC),
        executor=spec["executor"],
        given=given,
    )


def told_of_forgotten(key: Key) -> Report:
    """Of an attempt that was pruned no more is known than that it is over."""
    return Report(
        task=key[0],
        attempt=key[1],
        sequence=_LAST,
        state=State.LOST,
        at=datetime.now(UTC),
        reason="it ended there long ago; its node remembers no more",
        given=Given(),
    )
