"""What the engine is asked to do with images. Everything here blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, BinaryIO

from docker.errors import APIError, ImageNotFound

from daemons.common.engine import EngineAway
from daemons.runner.images.stage import Stage
from daemons.runner.images.tarballs import what_of
from hakuriver.errors import Conflict, HakuRiverError, NotFound, StorageFull
from hakuriver.nodewire import EnvironmentRef

PIECE = 2**20
_LOADED_ID, _LOADED_NAME = "Loaded image ID: ", "Loaded image: "
_FULL = "no space left on device"


class ShortFile(Exception):
    """A file that was verified has changed since."""


def load(api: Any, tarball: BinaryIO, ref: EnvironmentRef, stage: Stage) -> str:
    """Load a verified tarball; the id of its image in this engine. Raises what ``_refused`` makes of a no."""
    stage.say("loading", ref.size)
    found, layers = "", dict[str, tuple[int, int]]()
    try:
        for line in api.load_image(_pieces(tarball, ref.size, stage), quiet=False):
            said = _said(line, f"{what_of(ref)} can't be loaded", stage)
            if _measure(line, "Loading layer", layers):
                stage.at(sum(done for done, _ in layers.values()))
            for mark in (_LOADED_ID, _LOADED_NAME):
                if said.startswith(mark):
                    found = said.removeprefix(mark).strip()
    except APIError as error:
        raise _refused(f"{what_of(ref)} can't be loaded", str(error.explanation or error)) from error
    if not found:
        raise EngineAway("the Docker engine broke off a load")
    return str(api.inspect_image(found)["Id"])


def _pieces(tarball: BinaryIO, size: int, stage: Stage) -> Iterator[bytes]:
    """The whole file, in pieces that the engine takes as fast as it likes; then it unpacks them."""
    done = 0
    while piece := tarball.read(PIECE):
        done += len(piece)
        stage.at(done)
        yield piece
    if done != size:
        raise ShortFile
    stage.say("unpacking", size)


def pull(api: Any, name: str, node: str, stage: Stage) -> None:
    """Get an image from the registry that its name says; raises what that refuses."""
    why = f"image {name} is not on node {node}, and can't be pulled"
    layers: dict[str, tuple[int, int]] = {}
    stage.say("pulling")
    done = False
    try:
        for line in api.pull(name, stream=True, decode=True):
            said = _said(line, why, stage)
            done = done or said.startswith("Status: ")
            if _measure(line, "Downloading", layers):
                stage.at(sum(each[0] for each in layers.values()), sum(each[1] for each in layers.values()))
    except APIError as error:
        raise _refused(why, str(error.explanation or error)) from error
    if not done:
        raise EngineAway("the Docker engine broke off a pull")


def _said(line: Mapping[str, Any], what: str, stage: Stage) -> str:
    """What one line of an answer says; raises what it refuses."""
    error = line.get("error") or line.get("message")
    if error:
        raise _refused(what, str(error))
    stage.moves += 1
    return str(line.get("stream") or line.get("status") or "").strip()


def _measure(line: Mapping[str, Any], what: str, layers: dict[str, tuple[int, int]]) -> bool:
    """Whether a line says how far a layer is: bytes done, and in all."""
    detail = line.get("progressDetail") or {}
    if line.get("status") != what or "total" not in detail:
        return False
    layers[str(line.get("id"))] = (int(detail.get("current", 0)), int(detail["total"]))
    return True


def _refused(what: str, why: str) -> HakuRiverError:
    """The engine's no, for people."""
    line = " ".join(why.split())[:600]
    if _FULL in line:
        return StorageFull(f"{what}: the disk of this node's Docker engine is full", hint=line)
    if what.endswith("pulled"):
        hint = "look at its name, or run 'docker pull' or 'docker load' there by hand"
        return NotFound(f"{what}: {line}", hint=hint, code="no_image")
    return Conflict(f"{what}: {line}", code="bad_image")


def tag(api: Any, image: str, name: str) -> None:
    """Give an image one more name, whatever had it before."""
    repository, _, version = name.rpartition(":")
    api.tag(image, repository, version)


def forget(api: Any, image: str, *names: str) -> bool:
    """Take names away from an image where it still has them, and remove it when it has no others, never by
    force; whether nothing is left to do: False while a container uses it."""
    try:
        for name in names:
            if (_look(api, name) or {}).get("Id") == image:
                api.remove_image(name, noprune=True)
        left = _look(api, image)
        if left is not None and not [*(left.get("RepoTags") or ()), *(left.get("RepoDigests") or ())]:
            api.remove_image(image, noprune=True)
    except ImageNotFound:  # somebody else was faster
        return False
    except APIError as error:
        if error.status_code != HTTPStatus.CONFLICT:
            raise
        return False
    return True


def _look(api: Any, name: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = api.inspect_image(name)
    except ImageNotFound:
        return None
    return found
