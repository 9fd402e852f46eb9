"""Old attempts go: their folders first, then all of them in the journal but that they can't start again."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from daemons.common.log import Log
from daemons.common.threads import Threads
from daemons.common.timeofday import DAY, Clock, look
from daemons.runner.folders import folder_of
from daemons.runner.journal import Journal
from daemons.runner.model import Key
from daemons.runner.shim.proc import boottime
from hakuriver.errors import HakuRiverError

log = Log("retention")
INTERVAL = 600.0
BATCH = 100
MEMORY = 30 * DAY  # for which a late order for a forgotten attempt is recognized


class Retention:
    """Looks now and then for what is old."""

    def __init__(
        self, journal: Journal, attempts: Path, threads: Threads, *, boot_id: str, days: float, count: int
    ) -> None:
        self._journal = journal
        self._attempts = attempts
        self._threads = threads
        self._boot_id = boot_id
        self._days = days
        self._count = count

    async def run(self) -> None:
        """For ever; what goes wrong is tried again at the next look."""
        while True:
            try:
                now = time.time()
                if await self._clock_is_believed(now):
                    await self._prune(now)
            except (HakuRiverError, TimeoutError) as error:
                log.warning("pruning_delayed", error=str(error) or "timed out")
            await asyncio.sleep(INTERVAL)

    async def _clock_is_believed(self, wall: float) -> bool:
        text = await self._journal.call(self._journal.clock)
        known = Clock(*json.loads(text)) if text else None
        now = look(known, self._boot_id, wall, boottime())
        if now != known:
            await self._journal.call(self._journal.keep_clock, json.dumps(astuple(now)))
        if now.doubted_since is not None:
            log.warning("pruning_pauses", reason="the clock of this machine jumped by more than an hour")
        return now.doubted_since is None

    async def _prune(self, now: float) -> None:
        last, count = (0, 0), 0
        while keys := await self._journal.call(
            self._journal.prunable, now - self._days * DAY, self._count, last, BATCH
        ):
            gone = await self._threads.call(self._remove, keys)
            await self._journal.call(self._journal.forget, gone)
            last, count = keys[-1], count + len(gone)
        await self._journal.call(self._journal.forget_wholly, now - MEMORY)
        if count:
            log.info("pruned", attempts=count)

    def _remove(self, keys: Sequence[Key]) -> list[Key]:
        """Remove folders; those that are gone now. Links are not followed."""
        gone = []
        for key in keys:
            try:
                shutil.rmtree(folder_of(self._attempts, key))
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warning("folder_stays", task=key[0], attempt=key[1], error=str(error))
                continue
            gone.append(key)
        return gone
