"""What the database knows of environments: which versions there are, and which of them a task gets.

Functions of a ``Tx`` write; those of a ``Connection`` only read.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from daemons.host import clock
from daemons.host.schema import attempt, environment, environment_version, task
from daemons.host.store import Tx
from hakuriver.environments import NATIVE, Reference, parse_reference
from hakuriver.errors import Conflict, NotFound
from hakuriver.lifecycle import LIVE, State
from hakuriver.nodewire import EnvironmentRef

_LIVE = [str(state) for state in LIVE]


@dataclass(frozen=True, slots=True)
class EnvironmentRow:
    """An environment as it is stored."""

    name: str
    base: str
    current: int | None
    last_version: int
    created_at: str
    created_by: str


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version as it is stored."""

    environment: str
    version: int
    size: int
    sha256: str
    image: str
    note: str
    created_by: str
    created_at: str


def load_environments(connection: Connection) -> list[EnvironmentRow]:
    """All environments by name."""
    rows = connection.execute(select(environment).order_by(environment.c.name))
    return [EnvironmentRow(**row._mapping) for row in rows]


def load_versions(connection: Connection, name: str | None = None) -> list[VersionRow]:
    """The versions of one environment or of all, newest first."""
    chosen = select(environment_version).order_by(environment_version.c.version.desc())
    if name is not None:
        chosen = chosen.where(environment_version.c.environment == name)
    return [VersionRow(**row._mapping) for row in connection.execute(chosen)]


def find(connection: Connection, name: str) -> EnvironmentRow:
    """The environment of a name; raises NotFound with the nearest name there is."""
    row = connection.execute(select(environment).where(environment.c.name == name)).first()
    if row is not None:
        return EnvironmentRow(**row._mapping)
    names = list(connection.execute(select(environment.c.name)).scalars())
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else "hakuriver env list shows them"
    raise NotFound(f"there is no environment {name}", hint=hint)


def find_version(connection: Connection, reference: Reference) -> VersionRow:
    """The version that a task would get now; raises NotFound, or Conflict where nothing was packed yet."""
    known = find(connection, reference.name)
    wanted = reference.version if reference.version is not None else known.current
    if wanted is None:
        raise Conflict(
            f"environment {reference.name} was never packed",
            hint=f"hakuriver env pack {reference.name} makes a version that tasks can run in",
            code="never_packed",
        )
    row = connection.execute(
        select(environment_version).where(
            environment_version.c.environment == reference.name, environment_version.c.version == wanted
        )
    ).first()
    if row is None:
        raise NotFound(
            f"environment {reference.name} has no version {wanted}",
            hint=f"hakuriver env versions {reference.name} lists them",
        )
    return VersionRow(**row._mapping)


def current_versions(tx: Tx, tasks: Sequence[int]) -> dict[int, int]:
    """The version that each of some tasks is to run in; those without an environment are left out."""
    found: dict[int, int] = {}
    chosen: dict[int, Reference] = {}
    for start in range(0, len(tasks), 500):
        rows = tx.execute(
            select(task.c.id, task.c.container).where(
                task.c.id.in_(tasks[start : start + 500]), task.c.container.is_not(None)
            )
        )
        chosen.update((row.id, parse_reference(row.container)) for row in rows if row.container != NATIVE)
    if not chosen:
        return found
    names = {each.name for each in chosen.values()}
    known = tx.execute(select(environment.c.name, environment.c.current).where(environment.c.name.in_(names)))
    current = {row.name: row.current for row in known}
    for number, reference in chosen.items():
        version = reference.version if reference.version is not None else current.get(reference.name)
        if version is not None:
            found[number] = version
    return found


def reference_of(connection: Connection, container: str | None, version: int | None) -> EnvironmentRef | None:
    """What an attempt's node must know of the version that was resolved for it."""
    if container is None or container == NATIVE or version is None:
        return None
    name = parse_reference(container).name
    row = connection.execute(
        select(environment_version).where(
            environment_version.c.environment == name, environment_version.c.version == version
        )
    ).first()
    return None if row is None else ref(VersionRow(**row._mapping))


def ref(row: VersionRow) -> EnvironmentRef:
    """A version as runners are told of it."""
    return EnvironmentRef(
        name=row.environment, version=row.version, sha256=row.sha256, size=row.size, image=row.image
    )


def needed_by(connection: Connection, name: str) -> dict[int, list[int]]:
    """Version → the live tasks that need it: those that were given it, or ask for just that one."""
    query = (
        select(task.c.id, task.c.container, attempt.c.version)
        .join(attempt, (attempt.c.task == task.c.id) & (attempt.c.number == task.c.attempt))
        .where(task.c.state.in_(_LIVE), task.c.container.is_not(None))
    )
    found: dict[int, list[int]] = {}
    for row in connection.execute(query):
        if row.container == NATIVE:
            continue
        reference = parse_reference(row.container)
        if reference.name != name:
            continue
        for version in {row.version, reference.version} - {None}:
            found.setdefault(version, []).append(row.id)
    return found


def waiting_for(connection: Connection, name: str) -> list[int]:
    """Waiting tasks that will get whatever version is current then."""
    query = select(task.c.id).where(task.c.state == str(State.PENDING), task.c.container == name)
    return list(connection.execute(query.order_by(task.c.id)).scalars())


def ensure(tx: Tx, name: str, base: str, by: str) -> None:
    """Store an environment; of one that is there only ``base`` changes."""
    if tx.execute(update(environment).where(environment.c.name == name).values(base=base)).rowcount:
        return
    tx.execute(
        insert(environment).values(
            name=name, base=base, current=None, last_version=0, created_at=clock.now(), created_by=by
        )
    )


def add_version(tx: Tx, row: VersionRow, *, current: bool) -> None:
    """Store a version whose tarball is in its place; ``current``: tasks get it from now on."""
    tx.execute(insert(environment_version).values(**{name: getattr(row, name) for name in row.__slots__}))
    mine = environment.c.name == row.environment
    last = tx.execute(select(environment.c.last_version).where(mine)).scalar_one()
    tx.execute(update(environment).where(mine).values(last_version=max(last, row.version)))
    if current:
        set_current(tx, row.environment, row.version)


def set_current(tx: Tx, name: str, version: int | None) -> None:
    """What tasks get from now on."""
    tx.execute(update(environment).where(environment.c.name == name).values(current=version))


def remove_version(tx: Tx, name: str, version: int) -> None:
    """Forget a version; its file is removed after this was committed."""
    tx.execute(
        delete(environment_version).where(
            environment_version.c.environment == name, environment_version.c.version == version
        )
    )


def remove(tx: Tx, name: str) -> None:
    """Forget an environment with all its versions."""
    tx.execute(delete(environment).where(environment.c.name == name))
