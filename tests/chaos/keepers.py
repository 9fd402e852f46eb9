"""Those who keep the tasks of a lab, to be killed: any shim or fence that the fork server made, and of each
unit either the shim or the main process. Needs root where nodes live in machines."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemons.runner.shim.status import read_status
from tests.chaos.lab import Lab


@dataclass(frozen=True)
class Seen:
    """A process of ours: its last words say what it keeps."""

    pid: int
    parent: int
    words: tuple[bytes, ...]

    @property
    def keeps_unit(self) -> bool:
        return any(b"shim.unit import" in word for word in self.words)


class Keepers:
    """Remembers whom it has killed: the other keeper of a unit is spared."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._spared: set[bytes] = set()

    def kill_some(self, source: random.Random) -> int:
        """kill -9 of up to three of them; how many it were."""
        seen = {each.pid: each for each in _look(os.fsencode(self._lab.folder))}
        mortal = [each for each in seen.values() if self._may_die(each, seen)]
        return sum(self._kill(each) for each in source.sample(mortal, min(3, len(mortal))))

    def _kill(self, victim: Seen) -> bool:
        if victim.keeps_unit and victim.words[-1] in self._spared:
            return False  # since a moment ago
        try:
            handle = os.pidfd_open(victim.pid)
        except ProcessLookupError:
            return False
        try:
            # a task looks like its shim until it executes, and that one may be dead since we looked
            if _words(victim.pid) != victim.words or self._is_task(victim):
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        if victim.keeps_unit:
            self._spared.add(victim.words[-1])
        return True

    def _may_die(self, each: Seen, seen: dict[int, Seen]) -> bool:
        above = []
        while (parent := seen.get(each.parent)) is not None and parent.words == each.words:
            above.append(parent)
            each = parent
        if each.keeps_unit:
            return len(above) < 2 and each.words[-1] not in self._spared
        return len(above) == 1  # the fork server itself must live

    def _is_task(self, victim: Seen) -> bool:
        """Whether it is a task that its shim has recorded."""
        inside = Path(f"/proc/{victim.pid}/status").read_text().partition("NSpid:")[2].splitlines()[0]
        return int(inside.split()[-1]) in self._recorded(victim)

    def _recorded(self, victim: Seen) -> set[int]:
        attempts = Path(
            os.fsdecode(victim.words[-2] if victim.keeps_unit else victim.words[-1] + b"/attempts")
        )
        found = set()
        for attempt in attempts.iterdir():
            with contextlib.suppress(OSError):  # pruned at this moment
                folder = os.open(attempt, os.O_RDONLY)
                try:
                    found.add(int((read_status(folder) or {}).get("pid", 0)))
                finally:
                    os.close(folder)
        return found


def _look(folder: bytes) -> Iterator[Seen]:
    for entry in Path("/proc").glob("[0-9]*"):
        words = _words(int(entry.name))
        if not any(b"daemons.runner.shim." in word for word in words):
            continue
        if any(word.startswith(folder) for word in words):
            with contextlib.suppress(OSError):  # it has ended
                parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[1]
                yield Seen(int(entry.name), int(parent), words)


def _words(pid: int) -> tuple[bytes, ...]:
    try:
        return tuple(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1])
    except OSError:
        return ()
