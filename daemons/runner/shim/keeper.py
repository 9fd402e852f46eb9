"""One attempt that runs: its signals, its memory, its end."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from typing import Any

from daemons.runner.shim.binding import move
from daemons.runner.shim.family import Family
from daemons.runner.shim.lease import Fence
from daemons.runner.shim.limit import TimeLimit
from daemons.runner.shim.memory import WATCH_INTERVAL, MemoryWatch, oom_kills
from daemons.runner.shim.proc import boottime
from daemons.runner.shim.sockets import Clients, listen, say
from daemons.runner.shim.status import Status, encode_status, open_status
from daemons.runner.shim.stdin import Stdin

LEFTOVER_GRACE = 2.0  # seconds between TERM and KILL for what a task leaves behind


class Keeper:
    """Lives in a shim, or in the fork server when the shim was killed."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        folder: int,
        status: Status,
        order: dict[str, Any],
        *,
        shim: int = 0,
        stdin: int | None = None,
    ) -> None:
        self.folder = folder
        self.status = status
        self.pid: int = status["pid"]
        self.done = False
        self.orphan = False  # not our child: nobody will ever know how it ended
        self._order = order
        self._family = Family(self.pid, status["start"], shim=shim, env=order["env"])
        self._memory = MemoryWatch(order.get("watch_memory") or 0, self._family.members)
        self._fence = Fence(folder, status["lease"]) if order.get("fenced") else None
        self._limit = TimeLimit(order["limit"], status["limit"]) if order.get("limit") else None
        self._stdin = Stdin(stdin)
        self._kill_at: float | None = None
        self._term_sent = False
        self._store_at = 0.0
        self._file = open_status(folder)
        self._selector = selector
        self._clients = Clients(selector, self._answer)
        self._watchers: list[socket.socket] = []
        self._listening = listen(folder, "control")
        selector.register(
            self._listening, selectors.EVENT_READ, lambda: self._clients.accept(self._listening)
        )

    def watch(self, client: socket.socket) -> None:
        """Tell a client every change of the status from now on."""
        self._clients.add(client)
        self._watchers.append(client)

    def let_go(self) -> None:
        """In a process forked from this one: close what is the other's."""
        for each in (self._listening, *self._clients.buffers):
            each.close()
        os.close(self._file)
        os.close(self.folder)

    # ---- what becomes due

    def reaped(self, raw: int | None) -> None:
        """The task itself ended, with this wait status (None: nobody was there to see it)."""
        self.status |= {"phase": "exited", "raw": raw, "ended_at": time.time(), "ended_boot": boottime()}
        kills = oom_kills(self._order["oom_file"]) if self._order.get("oom_file") else None
        if kills is not None:
            self.status["oom_events"] = kills
        self._term_sent = False  # what is left behind hears TERM once more
        self._write()

    def tick(self, now: float) -> float:
        """Do what is due; returns when to come again."""
        if self.status["phase"] == "started":
            due = self._while_it_runs(now)
            if self.status["phase"] == "started":
                return due
        if self.status["phase"] == "exited":
            if self._family.lives():
                self._end_all(LEFTOVER_GRACE)
                if self._kill_at is not None and now >= self._kill_at:
                    self._family.signal(signal.SIGKILL)
                return now + 0.02
            self.status["phase"] = "final"
        return self._finish(now)

    def _while_it_runs(self, now: float) -> float:
        too_much, due = self._memory.look(now)
        if too_much:
            self.status |= {"oom": True, "oom_events": 1}
            self._family.signal(signal.SIGKILL)
        if self._fence is not None:
            over, look_at = self._fence.look(now)
            due = min(due, look_at)
            if over and not self.status["fenced"]:
                self.status |= {"fenced": True, "no_lease_for": over}
                self._kill_at = now
        if self._limit is not None:
            due = min(due, now + self._keep_limit(self._limit))
        if self.orphan:
            if not self._family.leader_lives():
                self.reaped(None)
            due = min(due, now + WATCH_INTERVAL)
        if self._kill_at is None:
            return due
        if now < self._kill_at:
            return min(due, self._kill_at)
        self._family.signal(signal.SIGKILL)
        return now + 0.05

    def _keep_limit(self, limit: TimeLimit) -> float:
        """Warn and end the task in time; returns seconds after which to look again."""
        clock = boottime()
        if limit.notice_due(clock) and self._kill_at is None:
            self._family.signal(limit.signal)
            limit.kept["noticed"] = True
            self._write()
        if limit.end_due(clock) and self._kill_at is None and self._family.leader_lives():
            limit.kept["over"] = limit.kept["over"] or clock
            self._write()
            self._end_all(limit.grace)
        return limit.wait(clock)

    def _stand_still(self) -> None:
        self._family.signal(signal.SIGSTOP)
        if self._limit is not None:
            self._limit.pause(boottime())  # after it: in doubt it ran
            self._write()

    def _go_on(self) -> None:
        if self._limit is not None:
            self._limit.resume(boottime())
            self._write()
        self._family.signal(signal.SIGCONT)

    def _move(self, before: set[int], after: set[int]) -> dict[str, Any]:
        """Take all threads to other CPUs, and once more for those that were started meanwhile."""
        try:
            for _ in range(2):
                move(self._family.threads(), before, after)
        except OSError as error:
            return {"error": f"the CPUs can't be changed: {error.strerror}"}
        return {"ok": True}

    def _end_all(self, grace: float) -> None:
        """TERM (a paused task must wake up to hear it), and KILL after ``grace`` seconds."""
        now = time.monotonic()
        self._kill_at = min(self._kill_at or now + grace, now + grace)
        if not self._term_sent:
            self._term_sent = True
            self._family.signal(signal.SIGTERM)
            self._family.signal(signal.SIGCONT)

    def _finish(self, now: float) -> float:
        """Store the end, again until there is space for it, and say goodbye."""
        if now < self._store_at:
            return self._store_at
        if not self._write(durable=True):
            self._store_at = now + 0.5
            return self._store_at
        for client in list(self._clients.buffers):
            self._clients.drop(client)
        self._selector.unregister(self._listening)
        self._listening.close()
        with contextlib.suppress(OSError):
            os.unlink("control", dir_fd=self.folder)
        os.close(self._file)
        os.close(self.folder)
        self.done = True
        return now

    def _write(self, *, durable: bool = False) -> bool:
        """Store the status and, when it is stored, tell those who watch."""
        try:
            os.pwrite(self._file, encode_status(self.status), 0)
            if durable:
                os.fsync(self._file)
        except OSError:
            return False
        self._watchers = [client for client in self._watchers if client in self._clients.buffers]
        for client in self._watchers:
            say(client, {"status": self.status})
        return True

    # ---- what is asked for

    def _answer(self, client: socket.socket, message: dict[str, Any]) -> None:
        if message.get("op") == "watch":
            self._watchers.append(client)
            say(client, {"status": self.status})
            return
        try:
            answer = self._obey(message) if self.status["phase"] == "started" else {"error": "ended"}
        except (KeyError, TypeError, ValueError):
            answer = {"error": "unknown"}
        say(client, answer)

    def _obey(self, message: dict[str, Any]) -> dict[str, Any]:
        match message["op"]:
            case "signal":
                self._family.signal(signal.Signals(message["signal"]))
            case "kill":
                self._end_all(float(message["grace"]))
            case "pause":
                self._stand_still()
            case "resume":
                self._go_on()
            case "move":
                return self._move(set(message["before"]), set(message["after"]))
            case "stdin":
                return self._stdin.take(message)
            case "fence":
                return {"fence": self._fence is not None and not self.status["fenced"]}
            case _:
                return {"error": "unknown"}
        return {"ok": True}
