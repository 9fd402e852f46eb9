"""The one table of states and legal transitions; database, daemons, CLI and TUI use nothing else.

States belong to attempts. A task shows the state of its current attempt.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What an attempt is doing, or how it ended."""

    PENDING = "pending"  # waits for a place; the reason says for what
    ASSIGNED = "assigned"  # has a place; the node has not said yet that it took it on
    PREPARING = "preparing"  # the node makes its environment ready
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"  # an end was asked for and not reached yet
    STOPPED = "stopped"  # a VPS at rest: files kept, GPUs freed
    COMPLETED = "completed"  # exit code 0
    FAILED = "failed"  # exit code or signal, or could not start: the reason says why
    KILLED = "killed"  # somebody asked for it, and that was recorded before the end
    KILLED_OOM = "killed_oom"  # over its memory limit, as measured
    TIMED_OUT = "timed_out"
    LOST = "lost"  # only a runner or an operator may say so


class NodeState(StrEnum):
    """How the host sees a node."""

    ONLINE = "online"
    UNREACHABLE = "unreachable"  # no heartbeat in time; its tasks keep their state
    OFFLINE = "offline"  # said goodbye
    REMOVED = "removed"


class Intent(StrEnum):
    """What people want of an attempt; durable, delivered to the node until acknowledged."""

    RUN = "run"
    PAUSE = "pause"
    KILL = "kill"


ENDED = frozenset(
    {State.COMPLETED, State.FAILED, State.KILLED, State.KILLED_OOM, State.TIMED_OUT, State.LOST}
)
LIVE = frozenset(State) - ENDED
ON_NODE = frozenset({State.ASSIGNED, State.PREPARING, State.RUNNING, State.PAUSED, State.STOPPING})
"""States that hold what was allocated: cores, memory, devices."""

TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.ASSIGNED, State.KILLED, State.FAILED}),
    State.ASSIGNED: frozenset({State.PENDING, State.PREPARING, State.RUNNING, State.PAUSED, State.STOPPING})
    | ENDED,
    State.PREPARING: frozenset({State.PENDING, State.RUNNING, State.PAUSED, State.STOPPING}) | ENDED,
    State.RUNNING: frozenset({State.PAUSED, State.STOPPING, State.STOPPED}) | ENDED,
    State.PAUSED: frozenset({State.RUNNING, State.STOPPING, State.STOPPED}) | ENDED,
    State.STOPPING: frozenset({State.STOPPED, State.PENDING}) | ENDED,
    State.STOPPED: frozenset({State.PENDING, State.ASSIGNED, State.RUNNING, State.KILLED, State.LOST}),
    **{ended: frozenset() for ended in ENDED},
}
"""``→ pending`` is legal only for a runner's own word ``not_started``. A host that was restored from a backup
may hear of a pause before it hears of the start."""


def allowed(before: State, after: State) -> bool:
    """Whether an attempt may go from one state to another."""
    return after in TRANSITIONS[before]


def apply_report(before: State, reported: State) -> State | None:
    """The state after a runner's report, or None when the report is illegal.

    ``stopping`` is the host's own and absorbs progress: a kill asked for while the node still says
    ``running`` stays visible. A repeat of the present state is legal and changes nothing.
    """
    if before == reported:
        return before
    if before is State.STOPPING and reported in {State.PREPARING, State.RUNNING, State.PAUSED}:
        return before
    return reported if allowed(before, reported) else None


def end_state(
    *, exit_code: int | None, signal: int | None, killed: bool, timed_out: bool = False, oom: bool = False
) -> State:
    """How an attempt that really ran ended. Intents count only if they were journaled before the end.

    A task that finished with 0 in spite of an intent that never reached it is still ``killed``: the
    intent was accepted first, and the real exit code stands beside it.
    """
    if timed_out:
        return State.TIMED_OUT
    if killed:
        return State.KILLED
    if oom:
        return State.KILLED_OOM
    return State.COMPLETED if exit_code == 0 and signal is None else State.FAILED
