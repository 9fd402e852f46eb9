"""The containers that people customise: one of each environment, on the engine of the host.

Found by their labels, never by their name. Nothing here knows the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from docker.errors import APIError
from docker.errors import NotFound as Absent
from docker.types import Mount

from daemons.common.engine import LABEL_CLUSTER, EngineAway, EngineClient
from daemons.common.log import Log
from daemons.host.environments import images
from daemons.host.environments.images import refusal
from daemons.host.environments.work import Work
from hakuriver.config import Docker
from hakuriver.environments import REPOSITORY, container_name, is_ours
from hakuriver.errors import Conflict, NotFound

log = Log("environments")
State = Literal["running", "stopped", "missing", "unknown"]
LABEL_ENVIRONMENT = "hakuriver.environment"
LABEL_OURS = "hakuriver.image"
"""On containers whose image we committed or loaded, so that it goes with the last that uses it."""
ENTRY = ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]
"""Keeps a container up with what every image with a shell has, and ends at once when it is told to."""
POLL = 3.0
STOP_TIMEOUT = 5
_COMMIT = 3600.0
_REMOVAL = 120.0
_ALIVE = ("running", "paused", "restarting")


@dataclass(frozen=True, slots=True)
class _Found:
    id: str
    running: bool


class Containers:
    """What there is, from memory; ``changed`` is told of which environment something changed, ``named`` tells
    the names that images of versions must keep."""

    def __init__(
        self,
        engine: EngineClient,
        cluster: str,
        settings: Docker,
        shared: Path,
        changed: Callable[[str], None],
        *,
        named: Callable[[], Collection[str]],
    ) -> None:
        self._engine = engine
        self._cluster = cluster
        self._settings = settings
        self._shared = shared
        self._changed = changed
        self._named = named
        self._known: dict[str, _Found] | None = None
        self._asked = 0
        self._answered = 0
        self._swept = False

    async def watch(self) -> None:
        """Loop: notice what people do to the containers without us."""
        while True:
            await self.refresh()
            if not self._swept and self._known is not None:
                with contextlib.suppress(EngineAway, APIError):
                    await self._engine.call(partial(_sweep, temporary=self._temporary()))
                    self._swept = True
            await asyncio.sleep(POLL)

    async def refresh(self) -> None:
        """Ask the engine now; without an answer nothing is known."""
        self._asked += 1
        number = self._asked
        label = f"{LABEL_CLUSTER}={self._cluster}"
        now: dict[str, _Found] | None
        try:
            listed = await self._engine.call(
                lambda api: api.containers(all=True, filters={"label": [label, LABEL_ENVIRONMENT]})
            )
            now = _environments(listed)
        except (EngineAway, APIError, TimeoutError):
            now = None
        if number < self._answered:  # whoever asked later has had a newer answer
            return
        self._answered = number
        before, self._known = self._known, now
        for name in sorted({*(before or {}), *(now or {})}):
            if (before or {}).get(name) != (now or {}).get(name):
                self._changed(name)

    def state(self, name: str) -> State:
        """How an environment's container is, as the engine said last."""
        if self._known is None:
            return "unknown"
        found = self._known.get(name)
        return "missing" if found is None else "running" if found.running else "stopped"

    def id_of(self, name: str) -> str | None:
        """The engine's id of an environment's container."""
        found = (self._known or {}).get(name)
        return None if found is None else found.id

    def names(self) -> frozenset[str]:
        """The environments that have a container."""
        return frozenset(self._known or ())

    async def require(self, name: str) -> str:
        """The id of a container that must be there; raises NotFound, or EngineAway."""
        found = (await self._look()).get(name)
        if found is None:
            raise NotFound(
                f"environment {name} has no container",
                hint=f"hakuriver env create {name} makes one",
                code="no_container",
            )
        return found.id

    async def running(self, name: str) -> str:
        """The same of one that must run; raises Conflict where it doesn't."""
        found = await self.require(name)
        if self.state(name) != "running":
            raise Conflict(
                f"the container of environment {name} is stopped",
                hint=f"hakuriver env start {name}",
                code="stopped",
            )
        return found

    async def create(
        self, work: Work, name: str, image: str, by: str, *, ours: bool = False, tarball: Path | None = None
    ) -> str:
        """Make and start the container; returns the id of its image.

        ``image`` is what somebody named, pulled where it isn't there; with ``ours`` the id of a version's, in
        ``tarball``, which was verified, where the engine doesn't have it. Raises Conflict where there is a
        container, NotFound, Unreachable, StorageFull or EngineAway; nothing is left then.
        """
        await self._must_be_free(name)
        found: str | None = None
        try:
            found = await self._local(image)
            if found is None and tarball is not None:
                found = await images.load(self._engine, work, tarball)
            elif found is None:
                if is_ours(image):
                    raise NotFound(
                        f"image {image} is not here, and {REPOSITORY}/… is never pulled",
                        hint=f"leave out the image: hakuriver env create {name}",
                    )
                await images.pull(self._engine, work, image)
                found = await self._local(image)
            if found is None:
                raise NotFound(f"image {image} is gone as soon as it was pulled", code="no_image")
            work.say("starting the container")
            await self._make(name, found, by, ours=ours or is_ours(image))
        except APIError as error:
            if ours:  # what was loaded for nothing
                await self._forget(found)
            raise refusal(error, f"a container of {image}") from error
        finally:
            await self.refresh()
        return found

    async def adopt(self, work: Work, name: str, container: str, by: str) -> str:
        """The same with the contents of a container, which stays as it is; returns the image it is of."""
        await self._must_be_free(name)
        try:
            origin = await self._engine.call(lambda api: api.inspect_container(container))
        except Absent:
            raise NotFound(
                f"there is no container {container} on the host", hint="docker ps -a lists them there"
            ) from None
        except APIError as error:
            raise refusal(error, f"container {container}") from error
        tag = f"{self._temporary()}{secrets.token_hex(4)}"
        repository = f"{REPOSITORY}/{name}"
        work.say(f"copying container {container}")
        try:
            base = await self._engine.call(lambda api: api.inspect_image(origin["Image"]))
            changes = restoring(base.get("Config") or {})
            made = await self._engine.stream(
                lambda api: api.commit(origin["Id"], repository=repository, tag=tag, changes=changes), _COMMIT
            )
            work.say("starting the container")
            await self._make(name, made["Id"], by, ours=True)
        except APIError as error:
            raise refusal(error, f"a copy of container {container}") from error
        finally:  # the container keeps its image without a name, and nothing else does
            with contextlib.suppress(EngineAway, APIError):
                await self._engine.call(lambda api: api.remove_image(f"{repository}:{tag}", force=True))
            await self.refresh()
        return str(origin["Config"]["Image"])

    async def start(self, name: str) -> None:
        """Start it; one that runs stays as it is."""
        found = await self.require(name)
        try:
            await self._engine.call(lambda api: api.start(found))
        except APIError as error:
            raise refusal(error, f"the container of environment {name}") from error
        finally:
            await self.refresh()

    async def stop(self, name: str) -> None:
        """Stop it, whatever runs in it, within seconds."""
        found = await self.require(name)

        def stop(api: Any) -> None:
            with contextlib.suppress(APIError):  # it doesn't run
                api.kill(found, "SIGTERM")  # the image may have said that it stops by something else
            api.stop(found, timeout=STOP_TIMEOUT)

        try:
            await self._engine.call(stop)
        except APIError as error:
            raise refusal(error, f"the container of environment {name}") from error
        finally:
            await self.refresh()

    async def delete(self, name: str) -> bool:
        """Remove it with everything in it, and an image of ours that only it used; whether there was one.
        Versions are none of its business."""
        found = (await self._look()).get(name)
        if found is None:
            return False
        try:
            image = await self._engine.call(partial(_remove, container=found.id))
            await self._forget(image)
        except Absent:
            pass
        except APIError as error:
            raise refusal(error, f"the container of environment {name}") from error
        finally:
            await self.refresh()
        return True

    async def _forget(self, image: str | None) -> None:
        """Remove an image of ours unless something names or uses it; without an answer it stays."""
        if image is None:
            return
        try:
            await self._engine.call(partial(_forget, image=image, named=self._named()), _REMOVAL)
        except (EngineAway, APIError) as error:
            log.info("image_kept", image=image, why=str(error))

    def _temporary(self) -> str:
        return f"adopting-{self._cluster[:8]}-"

    async def _look(self) -> dict[str, _Found]:
        """All, as the engine says now; raises EngineAway."""
        await self.refresh()
        if self._known is None:
            raise EngineAway(self._engine.unavailable or "the Docker engine doesn't answer")
        return self._known

    async def _must_be_free(self, name: str) -> None:
        if name in await self._look():
            raise Conflict(
                f"environment {name} has a container already",
                hint=f"hakuriver env delete {name} removes it; its versions stay",
                code="has_container",
            )

    async def _local(self, image: str) -> str | None:
        try:
            return str((await self._engine.call(lambda api: api.inspect_image(image)))["Id"])
        except Absent:
            return None

    async def _make(self, name: str, image: str, by: str, *, ours: bool) -> None:
        """Create and start; one that can't be started is removed again."""
        await self._engine.within(10, partial(self._shared.mkdir, parents=True, exist_ok=True))
        cpus = (await self._engine.call(lambda api: api.info())).get("NCPU") or 1
        labels = {LABEL_CLUSTER: self._cluster, LABEL_ENVIRONMENT: name, "hakuriver.by": by}
        arguments = {
            "image": image,
            "entrypoint": ENTRY[:1],
            "command": ENTRY[1:],
            "labels": {**labels, **({LABEL_OURS: "1"} if ours else {})},
            "host_config": partial(self._limits, cpus),
        }
        plain = container_name(name)
        try:
            made = await self._engine.call(partial(_create, plain, arguments))
        except APIError as error:
            if error.status_code != 409:  # the name is taken, by somebody else's container
                raise
            own = f"{plain}-{self._cluster[:8]}"
            made = await self._engine.call(partial(_create, own, arguments))
        try:
            await self._engine.call(lambda api: api.start(made))
        except (APIError, EngineAway):
            with contextlib.suppress(EngineAway, APIError):
                await self._engine.call(lambda api: api.remove_container(made, force=True, v=True))
            raise

    def _limits(self, cpus: int, api: Any) -> Any:
        memory = self._settings.environment_memory
        return api.create_host_config(
            nano_cpus=int(max(0.01, min(self._settings.environment_cores, cpus)) * 10**9),
            mem_limit=memory,
            memswap_limit=memory,
            mounts=[Mount("/shared", str(self._shared), type="bind")],
        )


def restoring(config: Mapping[str, Any]) -> list[str]:
    """What a commit must change, so that a container's image starts as the one that it was made of does,
    and nothing of ours is inherited. ``config`` is that image's."""
    entry = config.get("Entrypoint") or [""]  # an empty list would leave the container's
    command = config.get("Cmd") or []
    return [
        f"ENTRYPOINT {json.dumps(entry)}",
        f"CMD {json.dumps(command)}",
        f'LABEL {LABEL_CLUSTER}="" {LABEL_ENVIRONMENT}="" hakuriver.by="" {LABEL_OURS}=""',
    ]


def _create(name: str, arguments: Mapping[str, Any], api: Any) -> str:
    host_config = arguments["host_config"](api)
    return str(api.create_container(**{**arguments, "name": name, "host_config": host_config})["Id"])


def _remove(api: Any, container: str) -> str | None:
    """Remove a container; the image that is to go with it, unless something else needs that."""
    found = api.inspect_container(container)
    api.remove_container(container, force=True, v=True)
    labels = found["Config"].get("Labels") or {}
    return str(found["Image"]) if labels.get(LABEL_OURS) else None


def _forget(api: Any, image: str, named: Collection[str]) -> None:
    """Take the names of versions that are gone away from an image, and remove it when it has no others. Never
    by force: the engine refuses it while a container uses it."""
    tags = api.inspect_image(image).get("RepoTags") or []
    for tag in tags:
        if _is_version(tag) and tag not in named:
            api.remove_image(tag, noprune=True)
    with contextlib.suppress(Absent):  # it went with its last name
        left = api.inspect_image(image)
        if not [*(left.get("RepoTags") or ()), *(left.get("RepoDigests") or ())]:
            api.remove_image(image, noprune=True)


def _is_version(tag: str) -> bool:
    label = tag.rpartition(":")[2]
    return is_ours(tag) and (label == "base" or label.isdecimal())


def _environments(listed: list[dict[str, Any]]) -> dict[str, _Found]:
    """By environment; of two that say to be the same, the one that runs, else the newer one."""
    found: dict[str, _Found] = {}
    for each in sorted(listed, key=lambda each: (each["State"] in _ALIVE, each["Created"])):
        name = each["Labels"].get(LABEL_ENVIRONMENT)
        if name:
            found[name] = _Found(each["Id"], each["State"] in _ALIVE)
    return found


def _sweep(api: Any, temporary: str) -> None:
    """Remove the names that adoptions gave to images, and were killed before they took them away."""
    for image in api.images(filters={"reference": f"{REPOSITORY}/*:{temporary}*"}):
        for tag in image.get("RepoTags") or ():
            if tag.rpartition(":")[2].startswith(temporary):
                with contextlib.suppress(APIError):
                    api.remove_image(tag, force=True)  # else a tag stays whose container is there
