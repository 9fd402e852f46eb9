"""What the runner knows of an attempt: the journal stores it, the agent drives it, executors run it."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from hakuriver.lifecycle import Intent, State, end_state
from hakuriver.nodewire import AttemptSpec
from hakuriver.units import format_duration, format_size

Key = tuple[int, int]
Handle = dict[str, Any]
"""Where an attempt is to be found again, as its executor wrote it down."""


class Phase(StrEnum):
    """How far the runner is with an attempt."""

    ACCEPTED = "accepted"  # journaled, nothing was done
    STARTING = "starting"  # may have started: the claim knows
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Wish:
    """The newest intent for an attempt, and when it was journaled."""

    version: int
    intent: Intent
    by: str
    grace: float
    at: float  # CLOCK_REALTIME
    at_boot: float  # CLOCK_BOOTTIME
    boot_id: str


@dataclass(slots=True)
class Attempt:
    """One attempt as the journal has it."""

    spec: AttemptSpec
    cluster: str
    phase: Phase
    state: State
    boot_id: str  # of the boot in which it was started
    carried: int = 0  # version of the newest intent that was carried out
    wish: Wish | None = None
    handle: Handle = field(default_factory=dict)
    cpus: list[int] = field(default_factory=list)  # that it is bound to; empty for all
    clock: dict[str, Any] | None = None  # of its time limit (shim/limit.py), where no shim has it

    @property
    def key(self) -> Key:
        return self.spec.task, self.spec.attempt

    @property
    def name(self) -> str:
        return folder_name(self.key)

    @property
    def kill_wanted(self) -> bool:
        return self.wish is not None and self.wish.intent is Intent.KILL


def folder_name(key: Key) -> str:
    """Name of an attempt's folder."""
    return f"{key[0]}.{key[1]}"


def limit_order(spec: AttemptSpec, grace: float) -> dict[str, Any] | None:
    """The time limit of a task as its keeper wants it (shim/limit.py); ``grace`` is the node's."""
    if spec.time_limit is None:
        return None
    notice = spec.notice
    return {
        "seconds": spec.time_limit,
        "notice": None if notice is None else notice.seconds,
        "signal": 0 if notice is None else notice.signal,
        "grace": grace,
    }


@dataclass(frozen=True, slots=True)
class End:
    """The facts about an end; what they mean is judged with the journaled intent."""

    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    over_memory: bool = False  # measured, not guessed
    oom_events: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    ended_boot: float | None = None  # CLOCK_BOOTTIME of the boot ``boot_id``, when known
    boot_id: str = ""
    over_limit: float | None = None  # CLOCK_BOOTTIME at which it was found to have run for as long as it may
    cut: str | None = None  # who ended it, where neither it did itself nor anybody wished it
    lost: str | None = None  # why nobody can know how it ended
    never_ran: str | None = None  # why it can be started again under another number


@dataclass(frozen=True, slots=True)
class Verdict:
    """State and reason that the host is told."""

    state: State
    reason: str


def was_killed(end: End, wish: Wish | None) -> bool:
    """Whether a kill was journaled before the end (by the clock that never jumps, where both have it)."""
    if wish is None or wish.intent is not Intent.KILL:
        return False
    if end.ended_boot is not None and wish.boot_id == end.boot_id:
        return wish.at_boot <= end.ended_boot
    return end.ended_at is None or wish.at <= end.ended_at.timestamp()


def was_over(end: End, wish: Wish | None) -> bool:
    """Whether its time limit ended it: it was reached before anybody's kill was journaled."""
    if end.over_limit is None:
        return False
    return not was_killed(end, wish) or wish is None or wish.at_boot > end.over_limit


def judge(end: End, wish: Wish | None, memory: int, time_limit: float | None = None) -> Verdict:
    """What the facts mean; ``memory`` and ``time_limit`` are what the task was given."""
    killed, timed_out = was_killed(end, wish), was_over(end, wish)
    by = f"killed by {wish.by}" if wish and wish.by else "killed"
    if end.never_ran is not None:
        return (
            Verdict(State.KILLED, f"{by} before it started")
            if killed
            else Verdict(State.PENDING, end.never_ran)
        )
    if end.lost is not None:
        return Verdict(State.LOST, end.lost)
    state = end_state(
        exit_code=end.exit_code,
        signal=end.signal,
        killed=killed,
        timed_out=timed_out,
        oom=end.over_memory,
    )
    if state is State.TIMED_OUT:
        return Verdict(state, f"over its time limit of {_short(time_limit or 0)}")
    if state is State.KILLED:
        return Verdict(state, by)
    if state is State.KILLED_OOM:
        return Verdict(
            state, f"over its memory limit of {format_size(memory)}" if memory else "out of memory"
        )
    if end.cut is not None:
        return Verdict(State.FAILED, end.cut)
    if end.error is not None:
        return Verdict(state, end.error)
    if end.signal is not None:
        return Verdict(state, f"ended by {signal_name(end.signal)}")
    return Verdict(state, "" if state is State.COMPLETED else f"exit code {end.exit_code}")


def _short(seconds: float) -> str:
    """``2h``, ``1h30m``, ``0.5s``."""
    if seconds < 60:
        return f"{seconds:g}s"
    return re.sub(r"(?<=[mhd])00[smh]$", "", format_duration(seconds))


def signal_name(number: int) -> str:
    """``SIGSEGV``, or ``signal 40`` where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Work(Protocol):
    """What an executor may ask of the agent while it runs an attempt."""

    @property
    def attempt(self) -> Attempt: ...

    async def save(self, handle: Handle) -> None:
        """Journal the handle, before doing what can't be done twice."""

    async def waiting(self, reason: str) -> None:
        """Say why the attempt doesn't start yet."""

    async def preparing(self, progress: str) -> None:
        """Say how far it is with what the attempt needs before it can start."""

    async def kill_comes(self) -> None:
        """Wait until somebody wants the attempt killed."""

    async def started(self, at: datetime) -> None:
        """The attempt runs."""


class Executor(Protocol):
    """One way to run attempts. ``run`` is both start and recovery: it may be called in any phase."""

    @property
    def unavailable(self) -> str | None:
        """Why this node can't run anything this way now; None when it can."""

    @property
    def away(self) -> bool:
        """Whether it is unavailable only until something answers again that is there."""

    def check(self, attempt: Attempt) -> None:
        """Raise a HakuRiverError when this node will never run it (blocking)."""

    async def run(self, work: Work) -> End:
        """Start it at most once, wait for its end."""

    async def kill(self, attempt: Attempt, grace: float) -> None:
        """TERM, and KILL after ``grace`` seconds. It may be called again."""

    async def fence_lives(self, attempt: Attempt) -> bool:
        """Whether what ends a fenced attempt without the host was seen to work just now."""

    @property
    def keeps_time(self) -> bool:
        """Whether whoever keeps the attempts sees to their time limits, without this runner."""

    @property
    def by_quota(self) -> bool:
        """Whether a task's cores are a share of all CPUs, not CPUs of its own (a pinned one has those)."""

    async def pause(self, attempt: Attempt) -> bool:
        """False when it was paused already."""

    async def resume(self, attempt: Attempt) -> bool:
        """False when it went on already."""

    async def move(self, attempt: Attempt, before: list[int], after: list[int]) -> None:
        """Let what runs on some CPUs run on others from now on."""

    async def signal(self, attempt: Attempt, number: int) -> None:
        """Raises Conflict when it doesn't run."""

    async def stdin(self, attempt: Attempt, offset: int, data: bytes, *, eof: bool) -> int:
        """Feed bytes; returns the next wanted offset."""

    async def clean(self, attempt: Attempt) -> None:
        """Remove what isn't needed after the end was journaled: never logs. It may be called again."""


class TryLater(Exception):
    """It can't be started now, and was not: the reason."""
