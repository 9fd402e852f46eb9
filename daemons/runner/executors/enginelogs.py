"""Logs of containers that can't write them into our files: fetched from the engine, in order, by bytes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import docker
from docker.errors import APIError

from daemons.common.engine import EngineAway
from daemons.common.log import Log
from daemons.common.threads import Threads
from daemons.runner.executors.engine import Engine
from daemons.runner.folders import STREAM_FILES
from hakuriver.fields import Stream

log = Log("enginelogs")
FETCH_TIMEOUT = 600.0


class LogFetcher:
    """Copies what is new. The engine can't be asked from an offset, so a long log is asked for less often."""

    def __init__(self, engine: Engine, container: str, folder: Path, threads: Threads) -> None:
        self._engine = engine
        self._container = container
        self._folder = folder
        self._threads = threads
        self.interval = 1.0

    async def fetch(self) -> bool:
        """Copy all that is there; False when the engine doesn't answer."""
        began = time.monotonic()
        for stream in STREAM_FILES:
            try:
                await self._engine.call(lambda api, stream=stream: self._copy(api, stream), FETCH_TIMEOUT)  # type: ignore[misc]
            except EngineAway:
                return False
            except APIError as error:
                log.warning("no_engine_logs", container=self._container[:12], error=str(error.explanation))
        self.interval = max(1.0, 20 * (time.monotonic() - began))
        return True

    def _copy(self, api: docker.APIClient, stream: Stream) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self._folder / STREAM_FILES[stream], flags, 0o644)
        try:
            skip = os.fstat(file).st_size
            wanted = {"stdout": stream == "stdout", "stderr": stream == "stderr"}
            for part in api.logs(self._container, stream=True, follow=False, timestamps=False, **wanted):
                fresh = part[skip:]
                skip -= len(part) - len(fresh)
                while fresh:
                    fresh = fresh[os.write(file, fresh) :]
        finally:
            os.close(file)
