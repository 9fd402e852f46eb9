"""Images on the host's engine: pulled from a registry when somebody named them, or loaded from a tarball."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from docker.errors import APIError

from daemons.common.engine import EngineAway, EngineClient
from daemons.host.environments.work import Work
from hakuriver.errors import Conflict, HakuRiverError, NotFound, StorageFull, Unreachable

PULL_TIMEOUT = 6 * 3600.0
LOAD_TIMEOUT = 3600.0
_ABSENT = ("not found", "no such image", "repository does not exist", "manifest unknown", "access denied")
_AWAY = (
    "dial tcp",
    "no such host",
    "timeout",
    "connection refused",
    "network is unreachable",
    "eof",
    "proxy",
)


class GivenUp(Exception):
    """Nobody waits for it any more."""


def refusal(error: APIError, what: str) -> HakuRiverError:
    """An engine's refusal as one of ours; ``what`` was to be made or changed."""
    return explained(str(error.explanation or error), what, missing=error.status_code == 404)


def explained(message: str, what: str, *, missing: bool = False) -> HakuRiverError:
    """Words of the engine as one of our errors."""
    said = " ".join(message.split())[:400]
    low = said.lower()
    if "no space left" in low:
        return StorageFull(f"{what}: the disk of the Docker engine is full", hint="docker system df shows it")
    if "/bin/sh" in low and ("no such file" in low or "not found" in low):
        return Conflict(
            f"{what} can't be started: its image has no /bin/sh",
            hint="use an image with a shell",
            code="no_shell",
        )
    if missing:
        return NotFound(f"{what}: {said}")
    return Conflict(f"{what}: the engine refuses it: {said}", code="engine_refused")


async def pull(engine: EngineClient, work: Work, image: str) -> None:
    """Get it from its registry; raises NotFound, Unreachable, StorageFull, EngineAway."""
    work.say(f"pulling {image}")
    given_up = threading.Event()

    def follow(api: Any) -> None:
        layers: dict[str, tuple[int, int]] = {}
        for line in api.pull(image, stream=True, decode=True):
            if given_up.is_set():
                raise GivenUp
            if "error" in line:
                raise _not_pulled(image, str(line["error"]))
            _count(layers, line)
            if layers:
                work.progress(
                    sum(done for done, _ in layers.values()), sum(size for _, size in layers.values())
                )

    try:
        await engine.stream(follow, PULL_TIMEOUT)
    except APIError as error:
        raise _not_pulled(image, str(error.explanation or error)) from error
    finally:
        given_up.set()


def _count(layers: dict[str, tuple[int, int]], line: Mapping[str, Any]) -> None:
    """Bytes of each layer that is downloaded."""
    name, detail = line.get("id"), line.get("progressDetail") or {}
    if not name:
        return
    if line.get("status") == "Downloading" and detail.get("total"):
        layers[name] = (int(detail.get("current") or 0), int(detail["total"]))
    elif line.get("status") in ("Download complete", "Pull complete") and name in layers:
        layers[name] = (layers[name][1], layers[name][1])


def _not_pulled(image: str, message: str) -> HakuRiverError:
    low = message.lower()
    if "no space left" in low:
        return explained(message, f"image {image} can't be pulled")
    said = " ".join(message.split())[:300]
    if any(each in low for each in _ABSENT) and "no such host" not in low:
        return NotFound(
            f"image {image} is neither on the host nor in its registry: {said}",
            hint="check the name; docker login on the host, where it needs one",
            code="no_image",
        )
    if any(each in low for each in _AWAY):
        return Unreachable(
            f"the registry of image {image} can't be reached: {said}",
            hint=f"without a network: docker load it on the host, then name it; it is found as {image}",
            code="no_registry",
        )
    return Conflict(f"image {image} can't be pulled: {said}", code="engine_refused")


async def load(engine: EngineClient, work: Work, tarball: Path) -> str:
    """Load a tarball of one image, which was verified; returns the id that the image has here.

    Raises NotFound or Unreachable for a tarball that can't be read, and what the engine refuses.
    """
    given_up = threading.Event()
    work.say(f"loading {tarball.name}")

    def follow(api: Any) -> str:
        found = ""
        with _opened(tarball) as file:
            work.progress(0, os.fstat(file.fileno()).st_size)
            for line in api.load_image(_Counted(tarball, file, work, given_up)):
                if "error" in line:
                    raise explained(str(line["error"]), f"{tarball.name} can't be loaded")
                _, told, name = str(line.get("stream", "")).strip().partition("Loaded image ID: ")
                found = name if told else found
        if not found:
            raise EngineAway(f"the engine didn't say what it loaded of {tarball.name}")
        return found

    try:
        return await engine.stream(follow, LOAD_TIMEOUT)
    except APIError as error:
        raise refusal(error, f"{tarball.name} can't be loaded") from error
    finally:
        given_up.set()


@contextlib.contextmanager
def _readable(tarball: Path) -> Iterator[None]:
    """What the system says about a tarball, which is none of the engine's faults."""
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"{tarball} is missing", code="no_tarball") from None
    except OSError as error:
        raise Unreachable(f"{tarball} can't be read: {error.strerror}") from error


def _opened(tarball: Path) -> BinaryIO:
    with _readable(tarball):
        return tarball.open("rb")


class _Counted:
    """A file that is sent piece by piece, and says how far it is."""

    def __init__(self, tarball: Path, file: BinaryIO, work: Work, given_up: threading.Event) -> None:
        self._tarball = tarball
        self._file = file
        self._work = work
        self._given_up = given_up
        self._done = 0

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._next():
            if self._given_up.is_set():
                raise GivenUp
            self._done += len(piece)
            self._work.progress(self._done)
            yield piece

    def _next(self) -> bytes:
        with _readable(self._tarball):
            return self._file.read(2**20)
