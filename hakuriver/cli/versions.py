"""When the host is older than this command: say so, instead of what it didn't understand."""

from __future__ import annotations

import re

from hakuriver import __version__
from hakuriver.api import Client
from hakuriver.errors import HakuRiverError
from hakuriver.paths import host_path

SUSPICIOUS = frozenset({"no_such_route", "no_such_method", "invalid_body"})
"""Codes of answers that ``explained`` may have an explanation for."""
_UNKNOWN_VALUE = ("Extra inputs are not permitted", "Input should be '")
"""How a host says that it knows a field or a word not (yet): we send none that today's doesn't."""


def explained(client: Client, error: HakuRiverError) -> HakuRiverError:
    """What an answer means that a host of today wouldn't give; ``error`` itself where it is none of those."""
    unknown = error.instance_code != "invalid_body" or any(each in error.message for each in _UNKNOWN_VALUE)
    try:
        version = str(client.request("GET", host_path("cluster"))["version"])
    except HakuRiverError:  # what it said first is all there is
        return error
    if _parts(version) < _parts(__version__):
        why = f"the host is of version {version}, older than this command ({__version__})"
    elif unknown:
        why = "the host runs older code than this command"
    else:
        return error
    return HakuRiverError(
        f"{why}: {error.message}",
        hint="update the host, or restart it if it was updated; tasks run on meanwhile",
        code="older_host",
    )


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"[0-9]+", version)[:3]))
