"""The Docker engine of a node: whether it answers, and one stream of its events."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter, deque
from datetime import datetime
from functools import partial
from typing import Any

from docker.errors import APIError, DockerException
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from daemons.common.engine import ABSENT, BROKEN, EngineAway, EngineClient, comes_back, why
from daemons.common.log import Log
from daemons.common.threads import Threads, until
from daemons.runner.probes import engines

log = Log("engine")

LOOK_INTERVAL = 5.0
LABEL_RUNNER = "hakuriver.runner"
LABEL_ATTEMPT = "hakuriver.attempt"
SLACK = 1.0  # seconds that a broken stream of events may be noticed late
STOPPING = 20.0  # seconds that an engine takes at most to stop: it gives its containers 15


class Engine(EngineClient):
    """Finds the engine of this node whenever it is there."""

    def __init__(self, runner: str, changed: asyncio.Event) -> None:
        super().__init__("engine", 8)
        self._label = f"{LABEL_RUNNER}={runner}"
        self._changed = changed
        self._listener = Threads("engine-events", 1)
        self._stream: Any = None
        self._waiting: dict[str, asyncio.Event] = {}
        self._seen_to_die: set[str] = set()  # of those: its end was told before the engine could stop
        self._signalled: set[str] = set()  # of those: by others than us, as an engine that stops does
        self._ours: Counter[str] = Counter()  # of those: our signals that the engine has not told of yet
        self._live_restore: bool | None = None  # whether containers outlive this engine; None: not known yet
        self._lost_at: float | None = None  # time of day at which it was stopped
        self._stops: deque[tuple[float, float]] = deque(
            maxlen=64
        )  # when it was not there, and ended everything
        self.away = False  # it is unavailable, but there is one, which may be back at any moment
        self.about: engines.Docker | None = None  # what the last one that was found can

    def close(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError, RequestException, HTTPError, AttributeError):
                self._stream.close()
        self._listener.close()
        super().close()

    async def look(self) -> None:
        """Find out whether the engine answers, and say so when that is different."""
        before = self.unavailable, self.away
        try:
            api = await self.connect()
            if self._live_restore is None or self._lost_at is not None:
                facts = await self.within(10, api.info)
                self.about = await self.within(10, partial(engines.docker, facts))
                self._came(live_restore=bool(facts.get("LiveRestoreEnabled")))
            self.api, self.unavailable, self.away = api, None, False
        except BROKEN as error:
            self.api, self.unavailable = None, why(error)
            self.away = comes_back(error) or self.about is not None
            if self.unavailable == ABSENT:
                self._lost_at = self._lost_at or time.time()
        if before != (self.unavailable, self.away):
            if self.unavailable is None:
                log.info("engine_found")
            else:
                log.warning("engine_absent", reason=self.unavailable)
            self._changed.set()

    def _came(self, *, live_restore: bool) -> None:
        """It is there (again), and says whether containers outlive it from now on."""
        if self._lost_at is not None and not (
            live_restore if self._live_restore is None else self._live_restore
        ):
            self._stops.append((self._lost_at, time.time()))
        self._live_restore, self._lost_at = live_restore, None

    async def ended_by_stop(self, container: str, started: datetime, finished: datetime) -> bool:
        """Whether a container ended because the engine was stopped, and containers don't outlive this engine.

        An engine that is stopped signals its containers and still tells how they end before it goes itself,
        so a container that somebody signalled waits for what comes.
        """
        began, ended = started.timestamp(), finished.timestamp()
        if container not in self._signalled:
            return container not in self._seen_to_die and self._stopped(began, ended, SLACK)
        deadline = time.monotonic() + STOPPING
        while not (found := self._stopped(began, ended, STOPPING)) and time.monotonic() < deadline:
            await self.rest(container, 0.5)
        return found

    def _stopped(self, began: float, ended: float, early: float) -> bool:
        """Whether the engine went between two times of day, the second of them by so much too early."""
        stops = list(self._stops)
        if self._lost_at is not None and not self._live_restore:
            stops.append((self._lost_at, math.inf))
        return any(began < since and since - early <= ended <= until for since, until in stops)

    async def watch(self) -> None:
        """Keep looking, and follow the events while it is there."""
        following: asyncio.Task[None] | None = None
        while True:
            await self.look()
            if self.api is not None:
                if following is None or following.done():
                    following = asyncio.create_task(self._follow(self.api))
                with contextlib.suppress(EngineAway, APIError):
                    await self._inspect()
                await asyncio.wait({following}, timeout=LOOK_INTERVAL)  # a broken stream is news
            await asyncio.sleep(1)

    def ending(self, container: str) -> asyncio.Event:
        """An event that is set whenever it is worth to look at a container again."""
        return self._waiting.setdefault(container, asyncio.Event())

    def forget(self, container: str) -> None:
        self._waiting.pop(container, None)
        self._seen_to_die.discard(container)
        self._signalled.discard(container)
        self._ours.pop(container, None)

    async def signal(self, container: str, number: int | str) -> None:
        """Send a signal; raises like ``call``."""
        self._ours[container] += 1
        try:
            await self.call(lambda api: api.kill(container, number))
        except (APIError, EngineAway):
            self._ours[container] -= 1
            raise

    async def _inspect(self) -> None:
        """Wake those whose container doesn't run: an event may have been missed."""
        if not self._waiting:
            return
        found = await self.call(lambda api: api.containers(all=True, filters={"label": self._label}))
        alive = {each["Id"] for each in found if each["State"] in ("running", "paused", "restarting")}
        for container, event in self._waiting.items():
            if container not in alive:
                event.set()

    async def _follow(self, api: Any) -> None:
        loop = asyncio.get_running_loop()

        def listen() -> None:
            filters = {"type": "container", "event": ["die", "destroy", "oom", "kill"], "label": self._label}
            with contextlib.suppress(DockerException, RequestException, HTTPError, OSError, ValueError):
                self._stream = api.events(decode=True, filters=filters)
                for event in self._stream:
                    loop.call_soon_threadsafe(self._heard, event)
                self._lost_at = self._lost_at or time.time()

        with contextlib.suppress(TimeoutError):
            await self._listener.call_within(24 * 3600, listen)
        self._wake_all()

    def _heard(self, event: dict[str, Any]) -> None:
        container, action = str(event.get("id", "")), event.get("Action")
        if container not in self._waiting:
            return
        if action == "kill":
            if self._ours[container] > 0:
                self._ours[container] -= 1
            elif (event.get("Actor") or {}).get("Attributes", {}).get("signal") != "9":
                self._signalled.add(container)
            return
        if action == "die":
            self._seen_to_die.add(container)
        self._waiting[container].set()

    def _wake_all(self) -> None:
        for event in self._waiting.values():
            event.set()

    async def rest(self, container: str, seconds: float) -> None:
        """Wait until something may have happened to a container, at most so long."""
        event = self.ending(container)
        await until(event, seconds)
        event.clear()
