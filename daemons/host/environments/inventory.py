"""What lies in the folder of tarballs, compared with what the database knows: after a crash, after a restore,
and when somebody did something there by hand. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from daemons.host.environments.catalog import VersionRow
from daemons.host.environments.disk import Lying, Sidecar
from hakuriver.environments import tarball_name


@dataclass(slots=True)
class Findings:
    """What there is to do, and what only people can do."""

    adopt: list[Sidecar] = field(default_factory=list)
    """Whole tarballs of ours that the database doesn't know: it was restored, or the host was killed."""
    delete: list[Sidecar] = field(default_factory=list)
    """Versions that were removed from the database, but not yet from the folder."""
    repair: list[VersionRow] = field(default_factory=list)
    """Versions whose sidecar is missing, or says that they were to be removed."""
    problems: dict[str, list[str]] = field(default_factory=dict)
    """By environment, what is missing or can't be believed."""


def compare(folder: str, lying: Iterable[Lying], stored: Sequence[VersionRow], cluster: str) -> Findings:
    """What a look at the folder means; what belongs to another cluster means nothing."""
    found = Findings()
    rows = {(row.environment, row.version): row for row in stored}
    seen: dict[tuple[str, int], Lying] = {(each.name, each.version): each for each in lying}
    for key, each in sorted(seen.items()):
        row, sidecar = rows.get(key), each.sidecar
        if row is not None:
            if each.size != row.size:
                _problem(found, key, f"has {each.size} bytes instead of {row.size}: {_remedy(key)}")
            elif sidecar is None or sidecar.removed or sidecar.sha256 != row.sha256:
                found.repair.append(row)
        elif sidecar is None:
            place = f"{folder}/{tarball_name(*key)}"
            _problem(found, key, f"{each.problem}: hakuriver env import {place} checks it and makes one")
        elif sidecar.cluster == cluster:
            (found.delete if sidecar.removed else found.adopt).append(sidecar)
    for key in sorted(rows.keys() - seen.keys()):
        _problem(found, key, f"is missing in {folder}: {_remedy(key)}")
    return found


def _problem(found: Findings, key: tuple[str, int], text: str) -> None:
    found.problems.setdefault(key[0], []).append(f"{tarball_name(*key)} {text}")


def _remedy(key: tuple[str, int]) -> str:
    name, version = key
    return f"put it back, or hakuriver env versions rm {name} {version}"
