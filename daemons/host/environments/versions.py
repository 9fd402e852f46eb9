"""The versions of environments: database, tarballs and the engine's tags, kept in step.

A version is in the database only while its tarball is whole in the folder. To remove one, its sidecar says so
first: whatever is killed in between, the next start knows from sidecar and database what was meant.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import Connection

from daemons.common.engine import EngineClient
from daemons.common.log import Log
from daemons.host.environments import catalog, tags
from daemons.host.environments.catalog import EnvironmentRow, VersionRow
from daemons.host.environments.disk import Sidecar, Writer
from daemons.host.environments.tarballs import Tarballs
from daemons.host.store import Store, Tx
from hakuriver.environments import Reference, next_version
from hakuriver.errors import Conflict, HakuRiverError, NotFound
from hakuriver.views import VersionView

_SHOWN = 5
log = Log("environments")


class Versions:
    """``keep``: how many of an environment stay by themselves; ``reload`` is called after each change."""

    def __init__(
        self,
        store: Store,
        tarballs: Tarballs,
        engine: EngineClient,
        keep: int,
        reload: Callable[[], Awaitable[None]],
    ) -> None:
        self.tarballs = tarballs
        self._store = store
        self._engine = engine
        self._keep = keep
        self._reload = reload

    async def listed(self, name: str) -> list[VersionView]:
        """All of an environment, newest first; raises NotFound."""
        return await self._store.read(lambda connection: _views(connection, name))

    async def view(self, name: str, version: int) -> VersionView:
        """One of them; raises NotFound."""
        for each in await self.listed(name):
            if each["version"] == version:
                return each
        raise _no_version(name, version)

    async def row(self, name: str, version: int) -> VersionRow:
        """One of them as it is stored; raises NotFound."""
        return await self._store.read(lambda connection: _stored(connection, name, version))

    async def free(self, name: str) -> int:
        """The number of the next version. Only for whoever has the environment to itself."""
        rows = {row.name: row for row in await self._store.read(catalog.load_environments)}
        found = next_version(time.time(), rows[name].last_version if name in rows else 0)
        while await self.tarballs.exists(name, found):
            found += 1
        return found

    async def known(self, name: str, version: int) -> bool:
        """Whether the database has a version of this number."""
        rows = await self._store.read(lambda connection: catalog.load_versions(connection, name))
        return any(row.version == version for row in rows)

    async def publish(
        self, writer: Writer, sidecar: Sidecar, base: str, *, replace: bool = False
    ) -> VersionRow:
        """Put a whole tarball in its place and store it; ``base`` is for an environment that wasn't there.

        Raises StorageFull, Unreachable, Conflict; then it is not kept in the folder either.
        """
        await self.tarballs.publish(writer, sidecar, replace=replace)
        try:
            return await self.add(sidecar, base)
        except HakuRiverError:
            if not replace:
                await self.tarballs.delete(sidecar.environment, sidecar.version)
            raise

    async def add(self, sidecar: Sidecar, base: str) -> VersionRow:
        """Store what lies in its place; tasks get it from now on if it is the newest."""
        row = row_of(sidecar)
        current = await self._store.write(lambda tx: _add(tx, row, base))
        await self._reload()
        await tags.tag(self._engine, row, current=current)
        log.info("audit", act="add_version", environment=row.environment, version=row.version, by=sidecar.by)
        return row

    async def remove(self, name: str, version: int, by: str) -> VersionView:
        """Delete a version that nobody needs; raises NotFound, Conflict, Unreachable. As it was."""
        shown = await self.view(name, version)
        row = await self._store.read(lambda connection: _removable(connection, name, version))
        await self._remove(row, by)
        return shown

    async def prune(self, name: str, spare: int) -> list[str]:
        """Delete old versions that nobody needs, besides ``spare``; what couldn't be done, for people."""
        found = await self._store.read(lambda connection: _surplus(connection, name, self._keep, spare))
        problems: list[str] = []
        for row in found:
            try:
                await self._remove(row, "keep_versions")
            except HakuRiverError as error:
                problems.append(f"version {row.version} could not be removed: {error.message}")
        return problems

    async def rollback(self, name: str, version: int | None, by: str) -> int:
        """Let tasks get another version, the one before unless it is said; raises NotFound, Conflict."""
        row = await self._store.read(lambda connection: _target(connection, name, version))
        await self.tarballs.require(name, row.version, row.size)
        await self._store.write(lambda tx: _make_current(tx, name, row.version))
        await self._reload()
        await tags.tag(self._engine, row, current=True)
        log.info("audit", act="rollback", environment=name, version=row.version, by=by)
        return row.version

    async def _remove(self, row: VersionRow, by: str) -> None:
        sidecar = sidecar_of(row, self.tarballs.cluster)
        await self.tarballs.write_sidecar(sidecar.model_copy(update={"removed": True}))
        try:
            last = await self._store.write(lambda tx: _forget(tx, row))
        except HakuRiverError:
            await self.tarballs.write_sidecar(sidecar)
            raise
        await self._reload()
        log.info("audit", act="remove_version", environment=row.environment, version=row.version, by=by)
        await self.finish_removal(row, last=last)

    async def finish_removal(self, row: VersionRow, *, last: bool) -> None:
        """Remove what is left of a version that the database forgot; the sidecar, which says so, last."""
        await tags.untag(self._engine, row, last=last)
        await self.tarballs.delete(row.environment, row.version)


def row_of(sidecar: Sidecar) -> VersionRow:
    """A version as its sidecar tells of it."""
    return VersionRow(
        environment=sidecar.environment,
        version=sidecar.version,
        size=sidecar.size,
        sha256=sidecar.sha256,
        image=sidecar.image,
        note=sidecar.note,
        created_by=sidecar.by,
        created_at=sidecar.created_at,
    )


def sidecar_of(row: VersionRow, cluster: str) -> Sidecar:
    """What lies beside the tarball of a version."""
    return Sidecar(
        environment=row.environment,
        version=row.version,
        size=row.size,
        sha256=row.sha256,
        image=row.image,
        note=row.note,
        by=row.created_by,
        created_at=row.created_at,
        cluster=cluster,
    )


def _no_version(name: str, version: int) -> NotFound:
    return NotFound(
        f"environment {name} has no version {version}", hint=f"hakuriver env versions {name} lists them"
    )


def _views(connection: Connection, name: str) -> list[VersionView]:
    current = catalog.find(connection, name).current
    needed = catalog.needed_by(connection, name)
    return [
        VersionView(
            environment=row.environment,
            version=row.version,
            size=row.size,
            sha256=row.sha256,
            image=row.image,
            note=row.note,
            by=row.created_by,
            created_at=row.created_at,
            current=row.version == current,
            tasks=sorted(needed.get(row.version, [])),
        )
        for row in catalog.load_versions(connection, name)
    ]


def _stored(connection: Connection, name: str, version: int) -> VersionRow:
    return catalog.find_version(connection, Reference(name, version))


def _removable(connection: Connection, name: str, version: int) -> VersionRow:
    """A version that may go; raises NotFound, and Conflict that names what keeps it."""
    row = _stored(connection, name, version)
    tasks = catalog.needed_by(connection, name).get(version, [])
    if not tasks and catalog.find(connection, name).current == version:
        if len(catalog.load_versions(connection, name)) > 1:
            raise Conflict(
                f"version {version} is the one that tasks of environment {name} get",
                hint=f"roll back first: hakuriver env rollback {name}",
                code="version_current",
            )
        tasks = catalog.waiting_for(connection, name)
    if tasks:
        raise Conflict(
            f"version {version} of environment {name} is needed by {_named(tasks)}",
            hint="wait for their end, or end them: hakuriver task kill ID",
            code="version_needed",
        )
    return row


def _named(tasks: Sequence[int]) -> str:
    """Tasks by their numbers, where they are many just some of them."""
    ids = ", ".join(str(task) for task in sorted(tasks)[:_SHOWN])
    more = f" and {len(tasks) - _SHOWN} more" if len(tasks) > _SHOWN else ""
    return f"task{'' if len(tasks) == 1 else 's'} {ids}{more}"


def _surplus(connection: Connection, name: str, keep: int, spare: int) -> list[VersionRow]:
    """Versions that are too many, and that nobody needs."""
    kept = {spare, catalog.find(connection, name).current, *catalog.needed_by(connection, name)}
    return [row for row in catalog.load_versions(connection, name)[keep:] if row.version not in kept]


def _target(connection: Connection, name: str, version: int | None) -> VersionRow:
    """What to roll back to; raises NotFound, and Conflict where there is none before the current one."""
    if version is not None:
        return _stored(connection, name, version)
    current = catalog.find(connection, name).current
    if current is None:
        raise _never_packed(name)
    for row in catalog.load_versions(connection, name):
        if row.version < current:
            return row
    raise Conflict(
        f"environment {name} has no version before {current}",
        hint=f"hakuriver env versions {name} lists them",
        code="no_version_before",
    )


def _never_packed(name: str) -> Conflict:
    return Conflict(
        f"environment {name} was never packed", hint=f"hakuriver env pack {name}", code="never_packed"
    )


def _add(tx: Tx, row: VersionRow, base: str) -> bool:
    """Store a version, and its environment where there is none; whether tasks get it from now on."""
    found = _environment(tx.connection, row.environment)
    if found is None:
        catalog.ensure(tx, row.environment, base, row.created_by)
    versions = catalog.load_versions(tx.connection, row.environment)
    current = all(each.version < row.version for each in versions)
    catalog.add_version(tx, row, current=current)
    return current


def _environment(connection: Connection, name: str) -> EnvironmentRow | None:
    return next((row for row in catalog.load_environments(connection) if row.name == name), None)


def _make_current(tx: Tx, name: str, version: int) -> None:
    _stored(tx.connection, name, version)
    catalog.set_current(tx, name, version)


def _forget(tx: Tx, row: VersionRow) -> bool:
    """Forget a version, if nobody came to need it meanwhile; whether it was the last one."""
    _removable(tx.connection, row.environment, row.version)
    last = catalog.find(tx.connection, row.environment).current == row.version
    if last:
        catalog.set_current(tx, row.environment, None)
    catalog.remove_version(tx, row.environment, row.version)
    return last
