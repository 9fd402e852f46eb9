"""All processes of one attempt, whatever they did to get away, and signals to them."""

# ruff: noqa: PTH123, PTH208  (see proc.py)

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from daemons.runner.shim.proc import alive, children, process, send, tree

_MARKS = ("HAKURIVER_TASK_ID", "HAKURIVER_ATTEMPT")


class Family:
    """The task and what it started. ``shim``: the pid of the attempt's shim, which is the reaper of all its
    descendants; where this is another process (the fork server) they are told by their environment."""

    def __init__(self, pid: int, started: int, *, shim: int, env: dict[str, Any]) -> None:
        self._pid = pid
        self._started = started
        self._shim = shim
        self._env = env

    def members(self) -> list[int]:
        """Everything that belongs to the attempt. In a shim: all its descendants. In the fork server: the
        task, and those orphans that carry the attempt's number in their environment."""
        if self._shim == os.getpid():
            return tree(children(os.getpid()))
        roots = [self._pid] if self.leader_lives() else []
        return tree(roots + [pid for pid in children(os.getpid()) if self._marked(pid)])

    def threads(self) -> list[int]:
        """Every thread of every member."""
        found: list[int] = []
        for pid in self.members():
            with contextlib.suppress(OSError):
                found += map(int, os.listdir(f"/proc/{pid}/task"))
        return found

    def leader_lives(self) -> bool:
        facts = process(self._pid)
        return facts is not None and facts[3] == self._started and facts[0] not in "ZX"

    def lives(self) -> bool:
        """Whether anybody is left."""
        return any(True for _ in alive(self.members()))

    def _marked(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                have = file.read().split(b"\0")
        except OSError:
            return False
        return all(f"{key}={self._env.get(key)}".encode() in have for key in _MARKS)

    def signal(self, number: int) -> None:
        """Send to the group at once, then to whoever left it. STOP and KILL come again for those that were
        forked meanwhile."""
        seen: set[int] = set()
        for _ in range(20 if number in (signal.SIGSTOP, signal.SIGKILL) else 1):
            living = [each for each in alive(self.members()) if each[0] not in seen]
            if any(group == self._pid for _, group, _ in living):
                with contextlib.suppress(OSError):
                    os.killpg(self._pid, number)
            for pid, group, started in living:
                if group != self._pid:
                    send(pid, started, number)
            if not living:
                break
            seen.update(pid for pid, _, _ in living)
