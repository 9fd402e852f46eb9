"""The default environment: made and packed once the host runs, if it was never packed before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from docker.errors import APIError
from docker.errors import NotFound as Absent

from daemons.common.engine import EngineAway, EngineClient
from daemons.common.log import Log
from hakuriver.errors import HakuRiverError

FIRST_PAUSE = 5.0
LONGEST_PAUSE = 600.0
LOOK = 15.0
"""Seconds between two looks for an image that somebody may bring."""
NOTICE = 1.0
"""Seconds until it is noticed that the engine came or went."""
log = Log("environments")


@dataclass(frozen=True, slots=True)
class Steps:
    """What it takes. ``create`` and ``pack`` return when it is done; they raise what a work raises."""

    has_version: Callable[[], bool]
    has_container: Callable[[], bool]
    create: Callable[[], Awaitable[object]]
    pack: Callable[[], Awaitable[object]]
    report: Callable[[str], None]
    """Says what is wrong, empty when nothing is."""


class Default:
    """Tries until it is there. ``downloads``: whether its image may be pulled without anybody asking."""

    def __init__(self, name: str, image: str, engine: EngineClient, steps: Steps, *, downloads: bool) -> None:
        self._name = name
        self._image = image
        self._engine = engine
        self._steps = steps
        self._downloads = downloads

    async def run(self) -> None:
        """Loop: make it, then rest; who deletes it later has meant it."""
        pause = FIRST_PAUSE
        while self._image and not self._steps.has_version():
            missing = await self._missing()
            if missing:
                self._steps.report(missing)
                await self._rest(LOOK)
                continue
            try:
                if not self._steps.has_container():
                    await self._steps.create()
                await self._steps.pack()
            except (HakuRiverError, EngineAway) as error:
                self._steps.report(f"could not be made: {_words(error)}; tried again in {pause:g} s")
                log.warning("default_environment", name=self._name, error=str(error), again=pause)
                await self._rest(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        self._steps.report("")
        await asyncio.Event().wait()

    async def _rest(self, seconds: float) -> None:
        """Wait so long, but not when the engine comes or goes: what is missing is something else then."""
        before, end = self._engine.unavailable, time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, NOTICE))
            if self._engine.unavailable != before:
                return

    async def _missing(self) -> str:
        """What must be there first, and how it gets there."""
        if self._engine.api is None:
            why = self._engine.unavailable or "the Docker engine was not looked for yet"
            return f"{why}: tasks run without a container (--container NULL) until one is started on the host"
        if self._downloads or self._steps.has_container():
            return ""
        try:
            await self._engine.call(lambda api: api.inspect_image(self._image))
        except Absent:
            return (
                f"image {self._image} is not on this machine: docker pull {self._image}, or "
                f"hakuriver env create {self._name} IMAGE and hakuriver env pack {self._name}"
            )
        except (EngineAway, APIError) as error:
            return str(error)
        return ""


def _words(error: HakuRiverError | EngineAway) -> str:
    hint = getattr(error, "hint", "")
    return f"{error} ({hint})" if hint else str(error)
