"""A version that somebody wants on this node before any task does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from daemons.common.engine import EngineAway
from daemons.runner.images.flights import Flight
from daemons.runner.images.images import Images
from daemons.runner.images.tarballs import what_of
from daemons.runner.model import TryLater
from hakuriver.errors import HakuRiverError, Unreachable
from hakuriver.nodewire import EnvironmentRef
from hakuriver.views import WorkLine

INTERVAL = 0.5


async def prefetch(images: Images, ref: EnvironmentRef) -> AsyncIterator[bytes]:
    """Bring a version here; NDJSON WorkLines say how far it is. It goes on when nobody reads them."""
    looking = Flight("looking for", what_of(ref))
    bringing = await images.flights.begin(_bring(images, ref))
    while not bringing.done():
        view = images.flights.view(ref) or looking.view()
        yield _line({"type": "progress", "work": view})
        await asyncio.wait({bringing}, timeout=INTERVAL)
    error = None if bringing.cancelled() else bringing.result()
    yield _line({"type": "done"} if error is None else {"type": "error", "error": error.to_json()["error"]})


async def _bring(images: Images, ref: EnvironmentRef) -> HakuRiverError | None:
    try:
        await images.environment(ref, None, alias=False)
    except (EngineAway, TryLater) as error:
        return Unreachable(str(error))
    except HakuRiverError as error:
        return error
    return None


def _line(line: WorkLine) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
