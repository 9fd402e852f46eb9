"""What this runner brought here and nobody uses any more goes; never by force, and nothing of others."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from daemons.common.engine import EngineAway
from daemons.common.log import Log
from daemons.common.threads import Threads, until
from daemons.runner.images import engine
from daemons.runner.images.images import Images
from daemons.runner.images.record import Loaded, superfluous
from daemons.runner.model import Attempt, TryLater
from hakuriver.environments import image_tag
from hakuriver.nodewire import EnvironmentRef

INTERVAL = 600.0
PARTIAL_AGE = 3600.0
"""Seconds for which what was fetched in part, and nobody waits for, is kept."""
log = Log("images")
Living = Callable[[], Awaitable[list[Attempt]]]


class Cleaner:
    """Looks after each load, and now and then. ``keep``: versions of an environment that stay anyhow."""

    def __init__(self, images: Images, living: Living, threads: Threads, *, keep: int) -> None:
        self._images = images
        self._living = living
        self._threads = threads
        self._keep = keep

    async def run(self) -> None:
        """For ever; what goes wrong is tried again at the next look."""
        while True:
            self._images.brought.clear()
            try:
                await self._clean()
            except (EngineAway, TryLater, OSError) as error:
                log.info("images_stay", reason=str(error))
            await until(self._images.brought, INTERVAL)

    async def _clean(self) -> None:
        used = {each.sha256 for each in self._images.flights.under_way() if isinstance(each, EnvironmentRef)}
        living = [each.spec.environment for each in await self._living()]
        used |= {each.sha256 for each in living if each is not None}
        await self._threads.call(sweep, self._images.folder, used, time.time() - PARTIAL_AGE)
        record = self._images.record
        for each in superfluous(record.loaded, self._keep, used):
            if await self._forget(each):
                await self._images.written(lambda each=each: record.drop([each]))  # type: ignore[misc]
                log.info("image_removed", environment=each.name, version=each.version, image=each.image)

    async def _forget(self, old: Loaded) -> bool:
        names = [image_tag(old.name, old.version)]
        if not any(each.image == old.image for each in self._images.record.loaded if each != old):
            names.append(image_tag(old.name))
        return await self._images.ask(lambda api: engine.forget(api, old.image, *names))


def sweep(folder: Path, used: set[str], before: float) -> None:
    """Remove what was fetched in part, for versions that nobody waits for, and not since a time of day.
    Blocking; raises OSError."""
    for path in folder.glob("*.part"):
        if path.stem not in used and path.stat().st_mtime < before:
            path.unlink()
