"""One Docker engine, as both daemons reach it: the SDK in threads of its own, and whether it answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

import docker
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env, parse_host
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from daemons.common.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")

CALL_TIMEOUT = 30.0
STREAM_TIMEOUT = 900.0
"""Seconds between two bytes of a commit, a pull, a save or a load: a large layer says nothing for a while."""
LABEL_CLUSTER = "hakuriver.cluster"
ABSENT = "no Docker engine runs here"
BROKEN = (DockerException, RequestException, HTTPError, OSError)
"""What the SDK raises when the engine doesn't answer (APIError is one of them, and an answer)."""
_BROKEN_OFF = ("ConnectionReset", "RemoteDisconnected", "BrokenPipe")


class EngineAway(Exception):
    """The engine didn't answer: nobody knows whether it did what it was asked."""


class EngineClient:
    """Asks the engine of this machine, whenever it is there."""

    def __init__(self, purpose: str, threads: int) -> None:
        self._threads = Threads(purpose, threads)
        self.api: Any = None  # docker.APIClient: its published types are not complete
        self.unavailable: str | None = "the Docker engine was not looked for yet"

    def close(self) -> None:
        self._threads.close()

    async def call(self, function: Callable[[Any], T], timeout: float = CALL_TIMEOUT) -> T:
        """Ask the engine; raises APIError for its refusals, EngineAway when it doesn't answer."""
        api = self.api
        if api is None:
            raise EngineAway(self.unavailable or "the Docker engine doesn't answer")
        try:
            return await self._threads.call_within(timeout + 5, partial(function, api))
        except APIError:
            raise
        except BROKEN as error:
            raise EngineAway(f"the Docker engine doesn't answer: {why(error)}") from error

    async def stream(self, function: Callable[[Any], T], timeout: float) -> T:
        """The same on a connection and in a thread of its own, for what may be silent for long (a load).

        ``timeout`` is for all of it. A cancelled caller leaves ``function`` to itself: it must look for that.
        """
        if self.api is None:
            raise EngineAway(self.unavailable or "the Docker engine doesn't answer")
        thread = Threads("engine-stream", 1)
        api: Any = None
        try:
            api = await thread.call_within(CALL_TIMEOUT, partial(connect, STREAM_TIMEOUT))
            return await thread.call_within(timeout, partial(function, api))
        except APIError:
            raise
        except BROKEN as error:
            raise EngineAway(f"the Docker engine doesn't answer: {why(error)}") from error
        finally:
            if api is not None:
                with contextlib.suppress(*BROKEN):
                    api.close()
            thread.close()

    async def connect(self) -> Any:
        """Reach the engine and let it answer; raises what the SDK raises."""
        api = self.api or await self._threads.call_within(10, connect)
        await self._threads.call_within(10, api.ping)
        return api

    async def within(self, seconds: float, function: Callable[[], T]) -> T:
        """Something else that blocks on the engine."""
        return await self._threads.call_within(seconds, function)


def connect(timeout: float = CALL_TIMEOUT) -> Any:
    """A client of the engine that the environment names. Blocking."""
    return docker.APIClient(**kwargs_from_env(), version="auto", timeout=int(timeout))


def socket_path() -> str | None:
    """Where the engine of this node listens, None when it doesn't do so on this machine's file system."""
    try:
        host = str(parse_host(kwargs_from_env().get("base_url")))
    except DockerException:
        return None
    return host.removeprefix("http+unix://") if host.startswith("http+unix://") else None


def comes_back(error: Exception) -> bool:
    """Whether an engine that doesn't answer is one that was stopped, or is too slow now."""
    stopped = ("ConnectionRefused", "timed out", *_BROKEN_OFF)
    return isinstance(error, TimeoutError) or any(each in str(error) for each in stopped)


def why(error: Exception) -> str:
    """One line about an engine that doesn't answer."""
    text = str(error)
    if isinstance(error, TimeoutError) or "timed out" in text:
        return "the Docker engine doesn't answer in time"
    if "FileNotFoundError" in text or "ConnectionRefusedError" in text:
        return ABSENT
    if any(each in text for each in _BROKEN_OFF):
        return "the Docker engine broke the connection off"
    if "PermissionError" in text:
        return "this user may not use the Docker engine (group docker)"
    return text.splitlines()[0][:300] if text else type(error).__name__
