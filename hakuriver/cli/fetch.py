"""Asking for many tasks in few requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hakuriver.api import Client
from hakuriver.errors import HakuRiverError, from_json
from hakuriver.paths import host_path

_AT_ONCE = 500
_TIMEOUT = 60.0


def tasks(client: Client, wanted: Sequence[int]) -> tuple[list[dict[str, Any]], list[HakuRiverError]]:
    """The tasks with all their attempts, in the order of ``wanted``, and why others can't be shown."""
    found: list[dict[str, Any]] = []
    refused: list[HakuRiverError] = []
    for start in range(0, len(wanted), _AT_ONCE):
        body = {"tasks": wanted[start : start + _AT_ONCE]}
        answer = client.request("POST", host_path("show"), body=body, timeout=_TIMEOUT)
        found += answer["items"]
        refused += [from_json(each["status"], each) for each in answer["refused"]]
    return found, refused
