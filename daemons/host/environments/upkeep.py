"""What the host does about environments by itself: find the engine, put the folder and the database right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from docker.errors import APIError

from daemons.common.engine import BROKEN, EngineAway, EngineClient, why
from daemons.common.log import Log
from daemons.host.environments import tags
from daemons.host.environments.catalog import VersionRow
from daemons.host.environments.disk import Sidecar
from daemons.host.environments.inventory import Findings, compare
from daemons.host.environments.versions import Versions, row_of, sidecar_of
from daemons.host.environments.work import Work, Works
from hakuriver.errors import HakuRiverError
from hakuriver.views import WorkLine

ENGINE_SECONDS = 5.0
FOLDER_SECONDS = 60.0
SWEEP_SECONDS = 60.0
BY = "hakuriver"
"""Who did what nobody asked for."""
_FOLDER = "folder"
log = Log("environments")


@dataclass(slots=True)
class Upkeep:
    """``stored``: the versions in memory; ``report``: says what is wrong with an environment."""

    engine: EngineClient
    versions: Versions
    works: Works
    stored: Callable[[], list[VersionRow]]
    reload: Callable[[], Awaitable[None]]
    report: Callable[[str, str, str], None]
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the engine was looked for."""
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the folder was looked at, or it turned out that it can't be."""
    troubled: frozenset[str] = frozenset()

    async def engine_loop(self) -> None:
        """Loop: find the engine whenever it is there, and what packs of a killed host left in it."""
        due, pause = 0.0, ENGINE_SECONDS
        while True:
            before = self.engine.unavailable
            try:
                self.engine.api, self.engine.unavailable = await self.engine.connect(), None
            except BROKEN as error:
                self.engine.api, self.engine.unavailable = None, why(error)
            if before != self.engine.unavailable:
                log.info("engine", state=self.engine.unavailable or "found")
            self.asked.set()
            if self.engine.api is not None and time.monotonic() > due:
                await self._sweep_engine()  # an engine goes on with a commit that nobody waits for
                due, pause = time.monotonic() + pause, min(2 * pause, SWEEP_SECONDS)
            await asyncio.sleep(ENGINE_SECONDS)

    async def _sweep_engine(self) -> None:
        cluster = self.versions.tarballs.cluster
        try:
            for name in await tags.left_behind(self.engine, cluster):
                if self.works.view(name) is None:
                    log.info("pack_swept", environment=name)
                    await tags.remove_packing(self.engine, name, cluster)
        except (EngineAway, APIError) as error:
            log.warning("sweep_postponed", error=str(error))

    async def folder_loop(self) -> None:
        """Loop: put right what a crash or a restore left, once; then say what people must see to."""
        first = True
        while True:
            try:
                await self._look(first=first)
                first = False
            except HakuRiverError as error:
                log.warning("folder_not_read", error=error.message)
            self.looked.set()
            await asyncio.sleep(FOLDER_SECONDS)

    async def _look(self, *, first: bool) -> None:
        before = self.stored()
        tarballs = self.versions.tarballs
        lying = await tarballs.scan()
        rows = [row for row in self.stored() if row in before]  # what changed meanwhile is somebody's work
        found = compare(str(tarballs.folder), lying, rows, tarballs.cluster)
        if first:
            await self._put_right(found)
        for name in self.troubled - found.problems.keys():
            self.report(name, _FOLDER, "")
        for name, problems in found.problems.items():
            self.report(name, _FOLDER, "; ".join(problems))
        self.troubled = frozenset(found.problems)

    async def _put_right(self, found: Findings) -> None:
        tarballs = self.versions.tarballs
        for row in found.repair:
            log.info("sidecar_repaired", environment=row.environment, version=row.version)
            await tarballs.write_sidecar(sidecar_of(row, tarballs.cluster))
        for sidecar in found.delete:
            log.info("removal_finished", environment=sidecar.environment, version=sidecar.version)
            await self.asked.wait()
            await self.versions.finish_removal(row_of(sidecar), last=False)
        for sidecar in sorted(found.adopt, key=lambda each: each.version):
            adopting = partial(self._adopt, sidecar)
            await self.works.do(sidecar.environment, "import", BY, adopting)

    async def _adopt(self, sidecar: Sidecar, work: Work) -> WorkLine:
        """A whole tarball that the database doesn't know, unless it came to know it meanwhile."""
        work.say("storing what was found")
        name, version = sidecar.environment, sidecar.version
        if not await self.versions.known(name, version):
            await self.versions.tarballs.require(name, version, sidecar.size)
            await self.versions.add(sidecar, "a tarball that was found")
        return {"type": "done"}
