"""How many tasks a request makes, and the command of each."""

from __future__ import annotations

from collections.abc import Sequence

from hakuriver import sweep
from hakuriver.errors import UsageError
from hakuriver.fields import MAX_BATCH
from hakuriver.units import format_size
from hakuriver.wire import SubmitRequest

MAX_WRITTEN = 64_000_000
"""Characters of commands and variables that one request may make: each task keeps its own."""
MAX_WAITS = 100_000
"""Pairs of a task and one that it is to start after."""


def count(request: SubmitRequest) -> int:
    """How many tasks are asked for; raises UsageError where that can't be."""
    made = max(1, len(request.targets))
    if request.sweep:
        parsed = sweep.parse(request.command)
        if not parsed.axes:
            raise UsageError("there is no span: in the command", hint="for example: --lr=span:[0.1,0.01]")
        made *= len(parsed)
        if made > MAX_BATCH:
            raise UsageError(f"this sweep makes {made} tasks, the most is {MAX_BATCH}")
    if made * len(request.after) > MAX_WAITS:
        raise UsageError(
            f"{made} tasks that each wait for {len(request.after)} others are too many",
            hint="let one task wait for the others, and these for that one",
        )
    return made


def commands(request: SubmitRequest) -> list[Sequence[str]]:
    """The command of each task that goes to one target; raises UsageError when all of them are too much."""
    copies = max(1, len(request.targets))
    runs = sweep.parse(request.command).runs() if request.sweep else [request.command]
    around = sum(len(name) + len(value) for name, value in (request.caller.env | request.env).items())
    found: list[Sequence[str]] = []
    written = 0
    for run in runs:
        written += copies * (around + sum(map(len, run)))
        if written > MAX_WRITTEN:
            raise UsageError(
                f"the commands and variables of so many tasks are more than {format_size(MAX_WRITTEN)}",
                hint="put what is long into a file, and name that",
            )
        found.append(run)
    return found
