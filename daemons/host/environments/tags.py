"""Names of versions on the host's engine: for people only, tasks run by image id.

Without an engine, or where it refuses, nothing is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from docker.errors import APIError, NotFound

from daemons.common.engine import EngineAway, EngineClient
from daemons.common.log import Log
from daemons.host.environments.catalog import VersionRow
from hakuriver.environments import REPOSITORY, image_tag

log = Log("environments")


async def tag(engine: EngineClient, row: VersionRow, *, current: bool) -> None:
    """Name a version's image where the engine has it, and ``:base`` if it is the one that tasks get."""

    def tag(api: Any) -> None:
        names = [image_tag(row.environment, row.version), *([image_tag(row.environment)] if current else [])]
        for name in names:
            repository, _, label = name.partition(":")
            api.tag(row.image, repository, label, force=True)

    with _optional("tag", row):
        await engine.call(tag)


async def untag(engine: EngineClient, row: VersionRow, *, last: bool) -> None:
    """Take a version's names away, as far as they are its (``:base`` only with the last one); its image goes
    with them unless it is used."""

    def untag(api: Any) -> None:
        names = [image_tag(row.environment, row.version), *([image_tag(row.environment)] if last else [])]
        for name in names:
            with contextlib.suppress(NotFound):
                if api.inspect_image(name)["Id"] == row.image:
                    api.remove_image(name)

    with _optional("untag", row):
        await engine.call(untag)


def packing_tag(name: str, cluster: str) -> tuple[str, str]:
    """Repository and tag of an image while it is written to a tarball."""
    return f"{REPOSITORY}/{name}", f"packing-{cluster[:8]}"


async def remove_packing(engine: EngineClient, name: str, cluster: str) -> None:
    """The image of a pack that is over."""
    with contextlib.suppress(EngineAway, APIError):
        await engine.call(lambda api: api.remove_image(":".join(packing_tag(name, cluster))), timeout=1)


async def left_behind(engine: EngineClient, cluster: str) -> list[str]:
    """The environments with an image of a pack, which may be over."""
    _, label = packing_tag("", cluster)

    def found(api: Any) -> list[str]:
        listed = api.images(filters={"reference": f"{REPOSITORY}/*:{label}"})
        named = {tag for image in listed for tag in image.get("RepoTags") or ()}
        ours = [name.partition(":") for name in named]
        return sorted(name.removeprefix(f"{REPOSITORY}/") for name, _, tag in ours if tag == label)

    return await engine.call(found)


@contextlib.contextmanager
def _optional(what: str, row: VersionRow) -> Iterator[None]:
    try:
        yield
    except (EngineAway, APIError) as error:
        log.info("not_done", what=what, image=row.image, version=row.version, why=str(error))
