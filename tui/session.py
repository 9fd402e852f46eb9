"""What outlives screens: the mirror, the connection, what was done, what can be undone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hakuriver.errors import HakuRiverError
from hakuriver.lifecycle import State
from hakuriver.views import SubmitView, TaskView
from tui.command_lines import submit_line, verb_line
from tui.facts import instant
from tui.live import Mirror
from tui.remote import Remote

_AT_ONCE = 8
_MAX_ACTS = 1000


@dataclass
class Act:
    """One thing that was done here: when, the command line that does the same, and how it went."""

    number: int
    at: float
    line: str
    result: str = "…"
    ok: bool | None = None


@dataclass
class Session:
    """One per program. Every act runs through here, so that the action log is complete."""

    remote: Remote
    mirror: Mirror = field(default_factory=Mirror)
    frozen: bool = False
    acts: list[Act] = field(default_factory=list)
    histories: dict[str, list[str]] = field(default_factory=dict)
    last_filter: str = ""

    @property
    def label(self) -> str:
        return self.remote.endpoint.label

    @property
    def subject(self) -> str | None:
        """Who we are to the host."""
        return self.mirror.cluster["subject"] if self.mirror.cluster else None

    @property
    def embedded(self) -> bool:
        return bool(self.mirror.cluster and self.mirror.cluster["embedded"])

    def still_held(self) -> dict[int, float]:
        """Our kills that can be taken back, with about the seconds that are left.

        The host says which: its clock and ours may differ, and another program may have asked.
        """
        mine = (self.mirror.tasks[key] for key in sorted(self.mirror.held))
        now = time.time()
        return {
            task["id"]: max(0.0, instant(task["intent_due_at"] or "") - now)
            for task in mine
            if self.subject in (None, task["intent_by"])
        }

    async def kill(self, tasks: Iterable[TaskView]) -> str:
        """Kill with time to take it back; returns one line of what became of it."""
        return await self._each(
            "kill", [task["id"] for task in tasks], self.remote.kill, said="kill asked for:"
        )

    async def undo(self) -> str:
        ids = list(self.still_held())
        if not ids:
            return "nothing to take back"
        return await self._each("unkill", ids, self.remote.unkill, said="kill taken back:")

    async def pause_or_resume(self, tasks: Iterable[TaskView]) -> str:
        """Pause those that run; when none does, resume those that are paused."""
        running = [task["id"] for task in tasks if task["state"] == State.RUNNING]
        if running:
            return await self._each("pause", running, self.remote.pause, said="pause asked for:")
        paused = [task["id"] for task in tasks if task["state"] == State.PAUSED]
        if paused:
            return await self._each("resume", paused, self.remote.resume, said="resume asked for:")
        return "only running or paused tasks can be paused or resumed"

    async def submit(self, body: dict[str, Any]) -> SubmitView:
        """Submit; the host's error is raised after it stands in the action log."""
        act = self._begin(submit_line(body))
        try:
            answer = await self.remote.submit(body)
        except HakuRiverError as error:
            act.ok, act.result = False, error.message
            raise
        refused = "; ".join(each["error"]["message"] for each in answer["refused"])
        ids = ", ".join(str(task["id"]) for task in answer["tasks"])
        act.ok, act.result = not refused, f"task {ids}" + (f"; refused: {refused}" if refused else "")
        return answer

    async def _each(
        self,
        verb: str,
        ids: list[int],
        call: Callable[[int], Awaitable[object]],
        *,
        said: str,
    ) -> str:
        """The same for several tasks, a few at a time; one line about all."""
        act = self._begin(verb_line(verb, ids))
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(task: int) -> HakuRiverError | None:
            async with limit:
                try:
                    await call(task)
                except HakuRiverError as error:
                    return error
            return None

        outcomes = dict(zip(ids, await asyncio.gather(*map(one, ids)), strict=True))
        done = [task for task, error in outcomes.items() if error is None]
        errors = {task: error for task, error in outcomes.items() if error is not None}
        act.ok = not errors
        names = ", ".join(map(str, done[:8])) + ("…" if len(done) > 8 else "")
        parts = [f"{said} {names}"] if done else []
        parts += [f"{task}: {error.message}" for task, error in list(errors.items())[:3]]
        act.result = "; ".join(parts)
        return act.result

    def _begin(self, line: str) -> Act:
        act = Act(len(self.acts) + 1, time.time(), line)
        self.acts.append(act)
        del self.acts[:-_MAX_ACTS]
        return act
