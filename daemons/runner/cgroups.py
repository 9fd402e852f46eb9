"""Limits by control group, of either version, where this runner may make groups."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

PERIOD = 100_000  # microseconds in which a share of CPU time is counted
_LEAST = 1_000  # microseconds of CPU time in a period: the kernel wants no less


@dataclass(frozen=True, slots=True)
class Parent:
    """The group of one hierarchy under which each attempt gets its own."""

    path: Path
    unified: bool  # version 2

    def remove(self, name: str) -> None:
        """Remove a group; a process that is just leaving it is waited for. Raises OSError."""
        for _ in range(50):
            try:
                (self.path / name).rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02)
            else:
                return
        (self.path / name).rmdir()


@dataclass(frozen=True, slots=True)
class Made:
    """The groups of an attempt. ``oom_file``: where a line ``oom_kill N`` counts processes killed for memory,
    None where memory isn't limited."""

    paths: list[str]
    oom_file: str | None


@dataclass(frozen=True, slots=True)
class Groups:
    """What can be limited here; in version 2 both have the same parent."""

    memory: Parent | None
    cpu: Parent | None

    def make(self, name: str, *, memory: int, cores: float) -> Made:
        """Groups limited to so many bytes, swap included, and to so many CPUs' time (0: not limited); raises
        OSError, and then there are none."""
        paths: list[Path] = []
        oom_file = None
        try:
            if memory and self.memory is not None:
                paths.append(_limit_memory(self.memory, name, memory))
                oom_file = paths[0] / ("memory.events" if self.memory.unified else "memory.oom_control")
            if cores and self.cpu is not None:
                paths.append(_limit_cpu(self.cpu, name, cores))
        except OSError:
            self.remove(name)
            raise
        return Made(list(dict.fromkeys(map(str, paths))), None if oom_file is None else str(oom_file))

    def remove(self, name: str) -> None:
        """Remove what there is of an attempt's groups; raises OSError."""
        for parent in self._parents:
            parent.remove(name)

    def close(self) -> None:
        """Remove the common groups unless somebody is in them."""
        for parent in self._parents:
            with contextlib.suppress(OSError):
                parent.path.rmdir()

    @property
    def _parents(self) -> set[Parent]:
        return {each for each in (self.memory, self.cpu) if each is not None}

    def __str__(self) -> str:
        names = {"memory": self.memory, "cpu": self.cpu}
        return "+".join(name for name, parent in names.items() if parent is not None) or "none"


def _limit_memory(parent: Parent, name: str, limit: int) -> Path:
    group = parent.path / name
    group.mkdir(exist_ok=True)
    if parent.unified:
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


def _limit_cpu(parent: Parent, name: str, cores: float) -> Path:
    group = parent.path / name
    group.mkdir(exist_ok=True)
    quota = max(_LEAST, round(cores * PERIOD))
    if parent.unified:
        (group / "cpu.max").write_text(f"{quota} {PERIOD}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(quota))
    return group


def find(runner: str, *, mountinfo: str | None = None, own: str | None = None) -> Groups:
    """What this machine lets us limit, tried for real. Blocking."""
    try:
        mounts = mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_text()
        membership = own if own is not None else Path("/proc/self/cgroup").read_text()
    except OSError:
        return Groups(None, None)
    return Groups(
        *(
            _find(controller, f"hakuriver-{runner[:8]}", mounts, membership)
            for controller in ("memory", "cpu")
        )
    )


def _find(controller: str, name: str, mounts: str, membership: str) -> Parent | None:
    for mount, path, unified in _places(controller, mounts, membership):
        for base in (mount / path.lstrip("/"), mount):
            parent = Parent(base / name, unified)
            if _works(controller, parent):
                return parent
    return None


def _places(controller: str, mounts: str, membership: str) -> list[tuple[Path, str, bool]]:
    """Mount point, own group and version of every hierarchy that may have a controller; version 2 first."""
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
        elif kind == "cgroup" and controller in options:
            path = next((path for names, path in own.items() if controller in names.split(",")), "/")
            found.append((point, path, False))
    return found


def _works(controller: str, parent: Parent) -> bool:
    try:
        if parent.unified:
            _delegate(controller, parent.path.parent)
        parent.path.mkdir(exist_ok=True)
        if parent.unified:
            _delegate(controller, parent.path)
        if controller == "memory":
            probe = _limit_memory(parent, "probe", 2**30)
            works = (probe / ("memory.events" if parent.unified else "memory.oom_control")).exists()
        else:
            _limit_cpu(parent, "probe", 1)
            works = True
        parent.remove("probe")
    except OSError:
        return False
    return works


def _delegate(controller: str, group: Path) -> None:
    """Let children of a version 2 group have a limit; raises OSError where that isn't ours to do."""
    if controller not in (group / "cgroup.subtree_control").read_text().split():
        (group / "cgroup.subtree_control").write_text(f"+{controller}")
