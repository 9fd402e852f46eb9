"""Memory limits by control group, of either version, where this runner may make groups."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MemoryGroups:
    """The group under which each attempt gets one of its own."""

    parent: Path
    unified: bool  # version 2

    def make(self, name: str, limit: int) -> Path:
        """A group limited to ``limit`` bytes, swap included; raises OSError."""
        group = self.parent / name
        group.mkdir(exist_ok=True)
        if self.unified:
            (group / "memory.max").write_text(str(limit))
            with contextlib.suppress(OSError):  # absent without swap accounting
                (group / "memory.swap.max").write_text("0")
            with contextlib.suppress(OSError):
                (group / "memory.oom.group").write_text("1")
        else:
            (group / "memory.limit_in_bytes").write_text(str(limit))
            with contextlib.suppress(OSError):
                (group / "memory.memsw.limit_in_bytes").write_text(str(limit))
        return group

    def oom_file(self, group: Path) -> Path:
        """The file whose line ``oom_kill N`` counts processes killed for memory."""
        return group / ("memory.events" if self.unified else "memory.oom_control")

    def remove(self, name: str) -> None:
        """Remove a group; a process that is just leaving it is waited for. Raises OSError."""
        for _ in range(50):
            try:
                (self.parent / name).rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02)
            else:
                return
        (self.parent / name).rmdir()

    def close(self) -> None:
        """Remove the common group unless somebody is in it."""
        with contextlib.suppress(OSError):
            self.parent.rmdir()


def find(runner: str, *, mountinfo: str | None = None, own: str | None = None) -> MemoryGroups | None:
    """Where this machine lets us limit memory, tried for real; None where it doesn't. Blocking."""
    try:
        mounts = mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_text()
        membership = own if own is not None else Path("/proc/self/cgroup").read_text()
    except OSError:
        return None
    for mount, path, unified in _places(mounts, membership):
        for base in (mount / path.lstrip("/"), mount):
            groups = MemoryGroups(base / f"hakuriver-{runner[:8]}", unified)
            if _works(groups):
                return groups
    return None


def _places(mounts: str, membership: str) -> list[tuple[Path, str, bool]]:
    """Mount point, own group and version of every hierarchy that may limit memory; version 2 first."""
    own: dict[str, str] = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers or "cgroup2"] = path
    found: list[tuple[Path, str, bool]] = []
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, rest = right.partition(" ")
        options = rest.split(" ")[-1].split(",")
        point = Path(left.split(" ")[4])
        if kind == "cgroup2":
            found.insert(0, (point, own.get("cgroup2", "/"), True))
        elif kind == "cgroup" and "memory" in options:
            path = next((path for names, path in own.items() if "memory" in names.split(",")), "/")
            found.append((point, path, False))
    return found


def _works(groups: MemoryGroups) -> bool:
    try:
        if groups.unified:
            _delegate(groups.parent.parent)
        groups.parent.mkdir(exist_ok=True)
        if groups.unified:
            _delegate(groups.parent)
        probe = groups.make("probe", 2**30)
        works = groups.oom_file(probe).exists()
        groups.remove("probe")
    except OSError:
        return False
    return works


def _delegate(group: Path) -> None:
    """Let children of a version 2 group have memory limits; raises OSError where that isn't ours to do."""
    if "memory" not in (group / "cgroup.subtree_control").read_text().split():
        (group / "cgroup.subtree_control").write_text("+memory")
