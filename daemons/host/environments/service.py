"""Environments of the host as a value: what is known of them in memory, and what people do with them.

``views`` and ``view`` are answered from memory; the database is read again after each change.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from docker.errors import APIError
from docker.errors import NotFound as Absent
from sqlalchemy import Connection

from daemons.common.engine import EngineAway, EngineClient
from daemons.common.log import Log
from daemons.common.serve import Loop
from daemons.host import clock
from daemons.host.environments import catalog
from daemons.host.environments.catalog import EnvironmentRow, VersionRow
from daemons.host.environments.containers import Containers
from daemons.host.environments.default import Default, Steps
from daemons.host.environments.images import refusal
from daemons.host.environments.importing import Importing, Upload
from daemons.host.environments.packing import Packing
from daemons.host.environments.sessions import Sessions
from daemons.host.environments.tarballs import Tarballs
from daemons.host.environments.upkeep import BY, Upkeep
from daemons.host.environments.versions import Versions
from daemons.host.environments.work import Operation, Work, Works
from daemons.host.store import Store, Tx
from hakuriver.config import Docker
from hakuriver.environments import Reference, image_tag
from hakuriver.errors import HakuRiverError, NotFound, Unreachable
from hakuriver.views import EnvironmentView, VersionView, WorkLine

log = Log("environments")


@dataclass(frozen=True, slots=True)
class _Known:
    """The database as it was read last; versions are newest first."""

    environments: dict[str, EnvironmentRow] = field(default_factory=dict)
    versions: dict[str, list[VersionRow]] = field(default_factory=dict)


class Environments:
    """Made by ``open_host``; ``changed`` is called whenever ``views`` may give something else."""

    def __init__(
        self, store: Store, settings: Docker, shared: Path, changed: Callable[[], None], *, embedded: bool
    ) -> None:
        cluster = store.identity.cluster
        self.engine = EngineClient("environments", 8)
        self.works = Works(lambda _: changed())
        self.containers = Containers(
            self.engine, cluster, settings, shared, lambda _: changed(), named=self._image_names
        )
        self.tarballs = Tarballs(shared / Path(settings.container_dir).expanduser(), cluster)
        self.versions = Versions(store, self.tarballs, self.engine, settings.keep_versions, self.reload)
        self.sessions = Sessions(self.engine, self.containers)
        self._store = store
        self._changed = changed
        self._opened = clock.now()
        self._known = _Known()
        self._problems: dict[tuple[str, str], str] = {}
        self._packing = Packing(self.engine, self.containers, self.versions)
        self._importing = Importing(self.versions)
        self._upkeep = Upkeep(self.engine, self.versions, self.works, self._stored, self.reload, self.report)
        self._default = self._new_default(settings, embedded=embedded)

    def loops(self) -> dict[str, Loop]:
        """What must run for as long as the host does."""
        return {
            "works": self.works.run,
            "sessions": self.sessions.run,
            "containers": self.containers.watch,
            "engine": self._upkeep.engine_loop,
            "tarballs": self._upkeep.folder_loop,
            "default environment": self._make_default,
        }

    async def hang_up(self) -> None:
        """End what runs for people in containers."""
        await self.sessions.hang_up()

    def close(self) -> None:
        """Let the threads go."""
        self.tarballs.close()
        self.engine.close()

    # What is known

    async def reload(self) -> None:
        """Read the database again: to be called after each change of it."""
        rows, versions = await self._store.read(
            lambda connection: (catalog.load_environments(connection), catalog.load_versions(connection))
        )
        known = _Known({row.name: row for row in rows}, {row.name: [] for row in rows})
        for each in versions:
            known.versions[each.environment].append(each)
        self._known = known
        self._changed()

    def report(self, name: str, source: str, problem: str) -> None:
        """What is wrong with an environment, as far as ``source`` can tell; empty when nothing is.

        An environment with a problem is listed although there may be none of that name.
        """
        if problem == self._problems.get((name, source), ""):
            return
        if problem:
            log.warning("environment_problem", environment=name, problem=problem)
            self._problems[name, source] = problem
        else:
            del self._problems[name, source]
        self._changed()

    def views(self) -> list[EnvironmentView]:
        """All environments, by name."""
        return [self._view(name) for name in self._names()]

    def view(self, name: str) -> EnvironmentView:
        """One environment; raises NotFound."""
        if name not in self._names():
            raise NotFound(f"there is no environment {name}", hint="hakuriver env list shows them")
        return self._view(name)

    def _names(self) -> list[str]:
        """What is stored, what has a container, what is being made, and what is missing."""
        named = {name for name, _ in self._problems}
        known = {*self._known.environments, *self.containers.names()}
        return sorted({*known, *named, *self.works.names()})

    def _view(self, name: str) -> EnvironmentView:
        row, versions = self._known.environments.get(name), self._known.versions.get(name, [])
        problems = [text for (of, _), text in sorted(self._problems.items()) if of == name]
        return EnvironmentView(
            name=name,
            base=row.base if row else "",
            container=self.containers.state(name),
            current=row.current if row else None,
            versions=len(versions),
            size=sum(each.size for each in versions),
            problem="; ".join(problems),
            work=self.works.view(name),
            created_at=row.created_at if row else self._opened,
            created_by=row.created_by if row else "",
        )

    def _after(self, name: str) -> EnvironmentView:
        """An environment as it is when what is done to it now is over."""
        return {**self._view(name), "work": None}

    def _image_names(self) -> frozenset[str]:
        """The names that images of versions have on the engine."""
        known = self._known.environments.values()
        current = [image_tag(row.name) for row in known if row.current is not None]
        return frozenset([image_tag(row.environment, row.version) for row in self._stored()] + current)

    @contextlib.contextmanager
    def _why_unmade(self, name: str) -> Iterator[None]:
        """What is listed without being there, as an error that says why it isn't."""
        try:
            yield
        except NotFound as error:
            problem = self._view(name)["problem"]
            if name in self._known.environments or not problem:
                raise
            raise NotFound(f"environment {name} was not made yet: {problem}", code="not_made") from error

    def _stored(self) -> list[VersionRow]:
        return [row for rows in self._known.versions.values() for row in rows]

    # What takes long

    async def engine_looked_for(self) -> None:
        """Wait until somebody knows whether the engine is there: some seconds after the start at most."""
        await self._upkeep.asked.wait()

    async def create(self, name: str, image: str | None, by: str) -> AsyncIterator[bytes]:
        """The lines of making its container, from its current version where no image is named."""
        return await self.works.begin(name, "create", by, self._creating(name, image, by))

    async def adopt(self, name: str, container: str, by: str) -> AsyncIterator[bytes]:
        """The lines of making its container like another one."""

        async def operation(work: Work) -> WorkLine:
            await self.engine_looked_for()
            base = await self.containers.adopt(work, name, container, by)
            return await self._made(name, base, by)

        return await self.works.begin(name, "adopt", by, operation)

    async def pack(self, name: str, note: str, by: str) -> AsyncIterator[bytes]:
        """The lines of making a version."""
        return await self.works.begin(name, "pack", by, self._packs(name, note, by))

    async def take(
        self, name: str, upload: Upload, *, filename: str, note: str, by: str
    ) -> AsyncIterator[bytes]:
        """The lines of making a version of an upload."""

        async def operation(work: Work) -> WorkLine:
            try:
                taken = await self._importing.take(work, name, upload, filename=filename, note=note, by=by)
            finally:
                upload.abandon()
            return await self._new_version(taken.row, taken.warning)

        return await self.works.begin(name, "import", by, operation)

    def _creating(self, name: str, image: str | None, by: str) -> Operation:
        async def operation(work: Work) -> WorkLine:
            await self.engine_looked_for()
            if image is not None:
                await self.containers.create(work, name, image, by)
                return await self._made(name, image, by)
            with self._why_unmade(name):
                row, base = await self._store.read(read)
            tarball = await self._whole(work, row)
            await self.containers.create(work, name, row.image, by, ours=True, tarball=tarball)
            return await self._made(name, base, by)

        def read(connection: Connection) -> tuple[VersionRow, str]:
            row = catalog.find_version(connection, Reference(name))
            return row, catalog.find(connection, name).base

        return operation

    async def _whole(self, work: Work, row: VersionRow) -> Path | None:
        """The tarball of a version that the engine doesn't have, once it was checked."""
        try:
            await self.engine.call(lambda api: api.inspect_image(row.image))
        except Absent:
            work.say("checking the tarball", total=row.size)
            return await self.tarballs.verify(
                row.environment, row.version, row.size, row.sha256, work.progress
            )
        except APIError as error:
            raise refusal(error, f"the image of version {row.version}") from error
        return None

    async def _made(self, name: str, base: str, by: str) -> WorkLine:
        try:
            await self._store.write(lambda tx: catalog.ensure(tx, name, base, by))
        except HakuRiverError:
            await self.containers.delete(name)
            raise
        await self.reload()
        return {"type": "done", "environment": self._after(name)}

    def _packs(self, name: str, note: str, by: str) -> Operation:
        async def operation(work: Work) -> WorkLine:
            await self.engine_looked_for()
            return await self._new_version(await self._packing.pack(work, name, note, by))

        return operation

    async def _new_version(self, row: VersionRow, warning: str = "") -> WorkLine:
        """What is said of it at the end, once old ones that are too many are gone."""
        problems = [*([warning] if warning else ()), *await self.versions.prune(row.environment, row.version)]
        view = await self.versions.view(row.environment, row.version)
        line = WorkLine(type="done", environment=self._after(row.environment), version=view)
        if problems:
            line["warning"] = "; ".join(problems)
        return line

    # What is done at once

    async def start(self, name: str) -> EnvironmentView:
        """Start its container."""
        await self.engine_looked_for()
        with engine_needed():
            await self.containers.start(name)
        return self.view(name)

    async def stop(self, name: str) -> EnvironmentView:
        """Stop its container; what is in it stays."""
        await self.engine_looked_for()
        with engine_needed():
            await self.containers.stop(name)
        return self.view(name)

    async def delete(self, name: str) -> EnvironmentView:
        """Delete its container; one without versions is gone then, and so is one that had neither. Raises
        NotFound where there is nothing to delete."""
        await self.engine_looked_for()
        async with self.works.alone(name):
            shown = self.view(name)
            with engine_needed():
                deleted = await self.containers.delete(name)
            if not deleted and (name not in self._known.environments or self._known.versions[name]):
                raise NotFound(
                    f"environment {name} has no container",
                    hint=f"hakuriver env versions {name} lists what it has",
                    code="no_container",
                )
            await self._forget_empty(name)
        return {**shown, "container": self.containers.state(name), "work": None}

    async def versions_of(self, name: str) -> list[VersionView]:
        """Its versions, newest first; raises NotFound."""
        with self._why_unmade(name):
            return await self.versions.listed(name)

    async def remove_version(self, name: str, version: int, by: str) -> VersionView:
        """Delete a version that nobody needs, as it was; an environment with nothing left is gone then."""
        async with self.works.alone(name):
            with self._why_unmade(name):
                shown = await self.versions.remove(name, version, by)
            await self._forget_empty(name)
        return shown

    async def rollback(self, name: str, version: int | None, by: str) -> EnvironmentView:
        """Let tasks get another version."""
        with self._why_unmade(name):
            await self.versions.rollback(name, version, by)
        return self._view(name)

    async def _forget_empty(self, name: str) -> None:
        """Forget an environment that has neither container nor version."""
        if self.containers.state(name) != "missing":
            return

        def forget(tx: Tx) -> None:
            if not catalog.load_versions(tx.connection, name):
                catalog.remove(tx, name)

        await self._store.write(forget)
        await self.reload()

    async def _make_default(self) -> None:
        """Loop: once it is known what there is."""
        await self.engine_looked_for()
        await self._upkeep.looked.wait()
        await self.containers.refresh()
        await self._default.run()

    def _new_default(self, settings: Docker, *, embedded: bool) -> Default:
        name, image = settings.default_container_name, settings.initial_base_image
        note = f"made from {image}"
        steps = Steps(
            has_version=lambda: bool(self._known.versions.get(name)),
            has_container=lambda: self.containers.id_of(name) is not None,
            create=lambda: self.works.do(name, "create", BY, self._creating(name, image, BY)),
            pack=lambda: self.works.do(name, "pack", BY, self._packs(name, note, BY)),
            report=lambda problem: self.report(name, "default", problem),
        )
        return Default(name, image, self.engine, steps, downloads=not embedded)


@contextlib.contextmanager
def engine_needed() -> Iterator[None]:
    """An engine that doesn't answer, as an error that clients get."""
    try:
        yield
    except EngineAway as error:
        raise Unreachable(str(error), hint="start the Docker engine of the host") from error
