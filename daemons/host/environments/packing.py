"""A version of an environment's container: committed, saved piece by piece, checked on the way, published."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from docker.errors import APIError, create_api_error_from_http_exception
from requests.exceptions import HTTPError

from daemons.common.engine import STREAM_TIMEOUT, EngineClient
from daemons.host import clock
from daemons.host.environments import tags
from daemons.host.environments.archives import BadTarball, copy_image
from daemons.host.environments.catalog import VersionRow
from daemons.host.environments.containers import Containers, restoring
from daemons.host.environments.disk import Sidecar, Writer
from daemons.host.environments.images import refusal
from daemons.host.environments.versions import Versions
from daemons.host.environments.work import Work
from hakuriver.errors import Unreachable

COMMIT_SECONDS = 3600.0
SAVE_SECONDS = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Packing:
    """What it takes."""

    engine: EngineClient
    containers: Containers
    versions: Versions

    async def pack(self, work: Work, name: str, note: str, by: str) -> VersionRow:
        """A new version, which tasks get from now on. Raises NotFound where there is no container,
        StorageFull, Unreachable, Conflict, EngineAway; nothing is left then."""
        tarballs = self.versions.tarballs
        container = await self.containers.require(name)
        version = await self.versions.free(name)
        work.say("committing the container")
        try:
            image, size, base = await self._commit(name, container, note, by)
            work.say("writing the tarball", total=size)
            progress = partial(_progress, work, size)
            async with tarballs.writing(name, version, progress) as writer:
                save = self.engine.stream(partial(_save, image, writer), SAVE_SECONDS)
                await tarballs.guard(writer, save)
                sidecar = Sidecar(
                    environment=name,
                    version=version,
                    size=writer.size,
                    sha256=writer.sha256,
                    image=image,
                    note=note,
                    by=by,
                    created_at=clock.now(),
                    cluster=tarballs.cluster,
                )
                return await self.versions.publish(writer, sidecar, base)
        except APIError as error:
            raise refusal(error, f"environment {name} can't be packed") from error
        except BadTarball as error:
            raise Unreachable(
                f"the Docker engine didn't write all of the image of environment {name}: {error.message}",
                hint="docker system df shows whether its disk is full",
            ) from error
        finally:
            await tags.remove_packing(self.engine, name, tarballs.cluster)

    async def _commit(self, name: str, container: str, note: str, by: str) -> tuple[str, int, str]:
        """The container's image as its base would start it: its id, about its size, and the base's name."""
        repository, tag = tags.packing_tag(name, self.versions.tarballs.cluster)

        def commit(api: Any) -> tuple[str, int, str]:
            found = api.inspect_container(container)
            base = api.inspect_image(found["Image"])
            made = api.commit(
                container,
                repository=repository,
                tag=tag,
                message=note,
                author=by,
                changes=restoring(base.get("Config") or {}),
            )
            return made["Id"], api.inspect_image(made["Id"])["Size"], found["Config"]["Image"]

        return await self.engine.stream(commit, COMMIT_SECONDS)


def _progress(work: Work, size: int, done: int) -> None:
    work.progress(done, max(size, done))


def _save(image: str, writer: Writer, api: Any) -> None:
    """Copy an image from the engine, checked. Its own helper for this waits for ever."""
    url = f"{api.base_url}/v{api.api_version}/images/{image}/get"
    with api.get(url, stream=True, timeout=STREAM_TIMEOUT) as response:
        try:
            response.raise_for_status()
        except HTTPError as error:
            create_api_error_from_http_exception(error)
        copy_image(response.raw, writer.write)
