"""Whose processes compute on the GPUs: one of our attempts, or somebody else. Blocking: for a thread."""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from daemons.runner.model import Attempt, Key
from daemons.runner.shim.proc import process
from daemons.runner.shim.status import read_status

MPS_SERVER = "nvidia-cuda-mps"
"""Listed wherever its clients compute, and so are they: the server itself uses nothing."""
_DEEPEST = 1000  # parents that are followed


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a process belongs to: ``task`` when it is ours, else None.

    ``hidden`` ones exist, but this user may not look at them. ``gone`` ones just ended, which the driver
    notices a moment later, or are those of another process namespace.
    """

    task: int | None
    user: str | None
    sight: Literal["seen", "hidden", "gone"]


class Owners:
    """Living attempts, by what their processes can be told by.

    Process: descendants of the task's first process; and of its shim or the fork server, which take in what
    the task let go, when the environment says so, too. Containers and units: their control group.
    """

    def __init__(self, living: Iterable[Attempt], attempts: Path, boot_id: str) -> None:
        self._leaders: dict[int, int] = {}
        self._keepers: dict[int, set[Key]] = {}
        self._groups: dict[str, int] = {}
        for attempt in living:
            task = attempt.spec.task
            for name in ("container", "unit"):
                if attempt.handle.get(name):
                    self._groups[str(attempt.handle[name])] = task
            found = _leader(attempts / attempt.name, boot_id)
            if found is not None:
                self._leaders[found[0]] = task
                self._keepers.setdefault(found[1], set()).add(attempt.key)

    def of(self, pid: int) -> Owner:
        facts = process(pid)
        if facts is None or facts[0] in "ZX":
            return Owner(None, None, "hidden" if facts is None and _exists(pid) else "gone")
        return Owner(self._by_group(pid) or self._by_parents(pid), _user(pid), "seen")

    def _by_group(self, pid: int) -> int | None:
        """By the control group: a container's id or a unit's name is a part of its path."""
        if not self._groups:
            return None
        for part in _read(f"/proc/{pid}/cgroup").replace("\n", "/").split("/"):
            name = part.removeprefix("docker-").removesuffix(".scope")
            task = self._groups.get(name) or self._groups.get(name.removesuffix(".service"))
            if task is not None:
                return task
        return None

    def _by_parents(self, pid: int) -> int | None:
        kept: set[Key] = set()
        parent = pid
        for _ in range(_DEEPEST):
            if parent in self._leaders:
                return self._leaders[parent]
            kept |= self._keepers.get(parent, set())
            facts = process(parent)
            if facts is None or facts[1] == 0:
                break
            parent = facts[1]
        marks = set(_read(f"/proc/{pid}/environ").split("\0")) if kept else set()
        for task, number in kept:
            if {f"HAKURIVER_TASK_ID={task}", f"HAKURIVER_ATTEMPT={number}"} <= marks:
                return task
        return None


def _leader(folder: Path, boot_id: str) -> tuple[int, int] | None:
    """First process of an attempt and its parent, which keeps it; None when it doesn't run."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = read_status(opened)
    finally:
        os.close(opened)
    if status is None or "pid" not in status or status["boot"] != boot_id:
        return None
    facts = process(status["pid"])
    if facts is None or facts[3] != status["start"]:
        return None
    return status["pid"], facts[1]


def is_mps_server(pid: int) -> bool:
    return _read(f"/proc/{pid}/comm").startswith(MPS_SERVER)


def _exists(pid: int) -> bool:
    """Also for what /proc hides from this user."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:
        return True
    return True


def _user(pid: int) -> str | None:
    try:
        number = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116
    except OSError:
        return None
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def foreign(listed: Mapping[int, Owner], holder: int | None, before: Collection[int]) -> bool:
    """Whether somebody computes on a device that it wasn't given to. ``holder``: the task that has it;
    ``before``: who was listed there the last time and was none of ours.

    The benefit of the doubt about what can't be seen is the holder's.
    """
    return any(
        owner.task is None or owner.task != holder
        if owner.sight == "seen"
        else holder is None and (owner.sight == "hidden" or pid in before)
        for pid, owner in listed.items()
    )
