"""Query and path parameters, checked as strictly as bodies are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from starlette.requests import Request

from hakuriver.errors import NotFound, UsageError

MAX_ID = 2**63 - 1


def check_names(request: Request, known: Sequence[str]) -> None:
    """Refuse parameters that mean nothing here: a typo must not be ignored."""
    for name in request.query_params:
        if name not in known:
            raise UsageError(f"unknown parameter {name!r}", hint=f"known here: {', '.join(known) or 'none'}")


def whole(request: Request, name: str, default: int, least: int, most: int) -> int:
    """A whole number within bounds."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20) or not least <= int(text) <= most:
        raise UsageError(f"{name} must be a whole number from {least} to {most}, not {text!r}")
    return int(text)


def optional(request: Request, name: str, least: int, most: int) -> int | None:
    """A whole number within bounds, or None when it isn't given."""
    return whole(request, name, least, least, most) if name in request.query_params else None


def seconds(request: Request, name: str, most: float) -> float:
    """Seconds from 0 to ``most``, 0 when not given."""
    text = request.query_params.get(name, "0")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise UsageError(f"{name} must be seconds from 0 to {most:g}, not {text!r}")
    return value


def task_id(request: Request) -> int:
    """The task of the path; raises NotFound for what can't be one."""
    text: str = request.path_params["id"]
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or not 0 < int(text) <= MAX_ID:
        raise NotFound(f"there is no task {text!r}", hint="a task id is a whole number")
    return int(text)


def ids(request: Request, name: str, most: int) -> frozenset[int] | None:
    """A comma list of task ids, None when it isn't given."""
    text = request.query_params.get(name)
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) > most or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
        raise UsageError(f"{name} must be up to {most} task ids with commas between, not {text[:80]!r}")
    return frozenset(int(part) for part in parts)
