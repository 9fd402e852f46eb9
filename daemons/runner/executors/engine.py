"""One Docker engine: the SDK in threads of its own, whether it answers, and one stream of its events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

import docker
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from daemons.common.log import Log
from daemons.runner.threads import Threads, until

P = ParamSpec("P")
T = TypeVar("T")
log = Log("engine")

CALL_TIMEOUT = 30.0
LOOK_INTERVAL = 5.0
LABEL_RUNNER = "hakuriver.runner"
LABEL_CLUSTER = "hakuriver.cluster"
LABEL_ATTEMPT = "hakuriver.attempt"


class EngineAway(Exception):
    """The engine didn't answer: nobody knows whether it did what it was asked."""


class Engine:
    """Finds the engine of this node whenever it is there."""

    def __init__(self, runner: str, changed: asyncio.Event) -> None:
        self._label = f"{LABEL_RUNNER}={runner}"
        self._changed = changed
        self._threads = Threads("engine", 8)
        self._listener = Threads("engine-events", 1)
        self._api: Any = None  # docker.APIClient: its published types are not complete
        self._stream: Any = None
        self._waiting: dict[str, asyncio.Event] = {}
        self.unavailable: str | None = "the Docker engine was not looked for yet"

    def close(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError, RequestException, HTTPError, AttributeError):
                self._stream.close()
        self._listener.close()
        self._threads.close()

    async def call(self, function: Callable[[Any], T], timeout: float = CALL_TIMEOUT) -> T:
        """Ask the engine; raises APIError for its refusals, EngineAway when it doesn't answer."""
        api = self._api
        if api is None:
            raise EngineAway(self.unavailable or "the Docker engine doesn't answer")
        try:
            return await self._threads.call_within(timeout + 5, partial(function, api))
        except APIError:
            raise
        except (DockerException, RequestException, HTTPError, OSError) as error:
            raise EngineAway(f"the Docker engine doesn't answer: {_why(error)}") from error

    async def look(self) -> None:
        """Find out whether the engine answers, and say so when that is different."""
        before = self.unavailable
        try:
            api = self._api or await self._threads.call_within(10, _connect)
            await self._threads.call_within(10, api.ping)
            self._api, self.unavailable = api, None
        except (DockerException, RequestException, HTTPError, OSError) as error:
            self._api, self.unavailable = None, _why(error)
        if before != self.unavailable:
            if self.unavailable is None:
                log.info("engine_found")
            else:
                log.warning("engine_absent", reason=self.unavailable)
            self._changed.set()

    async def watch(self) -> None:
        """Keep looking, and follow the events while it is there."""
        following: asyncio.Task[None] | None = None
        while True:
            await self.look()
            if self._api is not None:
                if following is None or following.done():
                    following = asyncio.create_task(self._follow(self._api))
                with contextlib.suppress(EngineAway, APIError):
                    await self._inspect()
                await asyncio.wait({following}, timeout=LOOK_INTERVAL)  # a broken stream is news
            await asyncio.sleep(1)

    def ending(self, container: str) -> asyncio.Event:
        """An event that is set whenever it is worth to look at a container again."""
        return self._waiting.setdefault(container, asyncio.Event())

    def forget(self, container: str) -> None:
        self._waiting.pop(container, None)

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
            filters = {"type": "container", "event": ["die", "destroy", "oom"], "label": self._label}
            with contextlib.suppress(DockerException, RequestException, HTTPError, OSError, ValueError):
                self._stream = api.events(decode=True, filters=filters)
                for event in self._stream:
                    loop.call_soon_threadsafe(self._wake, str(event.get("id", "")))

        with contextlib.suppress(TimeoutError):
            await self._listener.call_within(24 * 3600, listen)
        self._wake_all()

    def _wake(self, container: str) -> None:
        if container in self._waiting:
            self._waiting[container].set()

    def _wake_all(self) -> None:
        for event in self._waiting.values():
            event.set()

    async def rest(self, container: str, seconds: float) -> None:
        """Wait until something may have happened to a container, at most so long."""
        event = self.ending(container)
        await until(event, seconds)
        event.clear()


def _connect() -> Any:
    return docker.APIClient(**kwargs_from_env(), version="auto", timeout=int(CALL_TIMEOUT))


def _why(error: Exception) -> str:
    text = str(error)
    if isinstance(error, TimeoutError) or "timed out" in text:
        return "the Docker engine doesn't answer in time"
    if "FileNotFoundError" in text or "ConnectionRefusedError" in text:
        return "no Docker engine runs here"
    if "PermissionError" in text:
        return "this user may not use the Docker engine (group docker)"
    return text.splitlines()[0][:300] if text else type(error).__name__
