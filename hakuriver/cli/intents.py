"""Telling many tasks what is wanted of them, in few requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hakuriver.api import Client
from hakuriver.errors import HakuRiverError, from_json
from hakuriver.paths import host_path

_AT_ONCE = 500
_TIMEOUT = 60.0


def tell(
    client: Client, verb: str, wanted: Sequence[int], *, grace: float | None = None
) -> tuple[list[dict[str, Any]], list[HakuRiverError]]:
    """The tasks as they are then, in the order of ``wanted``, and why others weren't told.

    The youngest are told first, so that nothing that waits takes the place of what is killed.
    """
    tasks: dict[int, dict[str, Any]] = {}
    refused: dict[int, HakuRiverError] = {}
    youngest_first = sorted(wanted, reverse=True)
    for start in range(0, len(youngest_first), _AT_ONCE):
        body = {"verb": verb, "tasks": youngest_first[start : start + _AT_ONCE], "grace": grace}
        answer = client.request("POST", host_path("intents"), body=body, timeout=_TIMEOUT)
        tasks |= {task["id"]: task for task in answer["items"]}
        refused |= {each["id"]: from_json(each["status"], each) for each in answer["refused"]}
    return (
        [tasks[each] for each in wanted if each in tasks],
        [refused[each] for each in wanted if each in refused],
    )
