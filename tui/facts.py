"""What there is to say about tasks and nodes: in words, times, symbols and colours by meaning. Pure."""

from __future__ import annotations

import re
import shlex
import time
from datetime import datetime
from functools import lru_cache

from hakuriver.errors import UsageError
from hakuriver.lifecycle import ENDED, NodeState, State
from hakuriver.units import format_cores, format_duration, format_size, parse_size
from hakuriver.views import NodeView, TaskView
from tui.plain import clean

TONES: dict[str, str] = {
    State.PENDING: "wait",
    State.ASSIGNED: "wait",
    State.PREPARING: "wait",
    State.RUNNING: "good",
    State.PAUSED: "info",
    State.STOPPING: "warn",
    State.STOPPED: "info",
    State.COMPLETED: "muted",
    State.FAILED: "bad",
    State.KILLED: "muted",
    State.KILLED_OOM: "bad",
    State.TIMED_OUT: "bad",
    State.LOST: "bad",
    NodeState.ONLINE: "good",
    NodeState.UNREACHABLE: "bad",
    NodeState.OFFLINE: "muted",
    NodeState.REMOVED: "muted",
}
SYMBOLS: dict[str, str] = {
    State.PENDING: "◌",
    State.ASSIGNED: "◍",
    State.PREPARING: "◍",
    State.RUNNING: "●",
    State.PAUSED: "‖",
    State.STOPPING: "◔",
    State.STOPPED: "■",
    State.COMPLETED: "✓",
    State.FAILED: "✗",
    State.KILLED: "✗",
    State.KILLED_OOM: "✗",
    State.TIMED_OUT: "✗",
    State.LOST: "✗",
    NodeState.ONLINE: "●",
    NodeState.UNREACHABLE: "▲",
    NodeState.OFFLINE: "○",
    NodeState.REMOVED: "○",
}
_BAD_ENDS = frozenset({State.FAILED, State.KILLED_OOM, State.TIMED_OUT, State.LOST})


def tone(state: str) -> str:
    """A colour's meaning: good, wait, info, warn, bad, muted, or nothing for a state we don't know."""
    return TONES.get(state, "")


def symbol(state: str) -> str:
    return SYMBOLS.get(state, "?")


@lru_cache(maxsize=8192)
def instant(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time; 0 when it can't be understood."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def clock(text: str | None) -> str:
    """A time as people here read it: local, with the day when it is not today."""
    if not text or not (seconds := instant(text)):
        return "–"
    local = time.localtime(seconds)
    today = local[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", local)


def elapsed(task: TaskView, now: float | None = None) -> str:
    """How long the task has run, or ran; nothing before its start."""
    return span(task["started_at"], task["ended_at"], now)


def span(started: str | None, ended: str | None, now: float | None = None) -> str:
    """From a start to an end, or until now; nothing before the start."""
    if not started:
        return ""
    end = instant(ended) if ended else (time.time() if now is None else now)
    return format_duration(end - instant(started))


@lru_cache(maxsize=4096)
def _command(argv: tuple[str, ...]) -> str:
    return clean(shlex.join(argv))


def command(task: TaskView) -> str:
    """The argv as a shell would need it typed, in one line."""
    return _command(tuple(map(str, task["command"])))


def held(task: TaskView) -> bool:
    """Whether a kill was asked for that can still be taken back."""
    return bool(task["intent"] == "kill" and task["intent_due_at"] and task["state"] not in ENDED)


def headline(task: TaskView) -> str:
    """A task in a few words: its name, else its command."""
    return clean(task["name"]) if task["name"] else brief(task)


def brief(task: TaskView) -> str:
    """The command as far as one line goes: of a script, its first line."""
    argv = [str(word) for word in task["command"]]
    lines = " ".join(argv).strip().splitlines()
    if len(lines) <= 1:
        return command(task)
    script = next((word for word in argv if "\n" in word), "")
    first = next((line.strip() for line in script.splitlines() if line.strip()), "")
    before = " ".join(argv[: argv.index(script)]) if script in argv else ""
    return clean(f"{before} {first} …".strip())


def no_log(task: TaskView) -> tuple[str, str]:
    """Why a task has no output, with the tone of it; nothing when it should have some."""
    if task["state"] in (State.PENDING, State.ASSIGNED, State.PREPARING):
        why = clean(task["reason"])
        return f"{clean(task['state'])}: {why or 'it has not started yet'}", "wait"
    if task["state"] in ENDED and not task["started_at"]:
        why = clean(task["error"] or task["reason"])
        return f"never ran: {why}" if why else "never ran", tone(task["state"])
    return "", ""


def how_it_failed(task: TaskView) -> str:
    """The line above the log of a task that went wrong."""
    if task["state"] not in _BAD_ENDS or not task["started_at"]:
        return ""
    return f"{symbol(task['state'])} {task['state'].replace('_', ' ')}: {detail(task) or 'nobody said why'}"


def detail(task: TaskView) -> str:
    """Why the task is where it is: what it waits for, how it ended."""
    if held(task):
        return f"will be killed at {clock(task['intent_due_at'])}"
    if task["error"]:
        return clean(task["error"])
    if task["signal"]:
        return clean(task["reason"]) or f"signal {task['signal']}"
    if task["exit_code"]:
        return clean(task["reason"]) or f"exit code {task['exit_code']}"
    return clean(task["reason"] or "")


_PROGRESS = re.compile(r"(.*): (\d[\d.]*[KMGTPE]?) of (\d[\d.]*[KMGTPE]?)(?:, (.*))?")


def brief_detail(task: TaskView) -> str:
    """The same for a narrow column: of what gets ready, how far it is comes first.

    ``loading torch@1767225600: 1.2G of 5G, 430M/s`` → ``24% 430M/s · loading torch@1767225600``.
    """
    found = _PROGRESS.fullmatch(task["reason"]) if task["state"] == State.PREPARING else None
    if found is None or held(task):
        return detail(task)
    what, done, total, speed = found.groups()
    try:
        share = parse_size(done) / max(1, parse_size(total))
    except UsageError:
        return detail(task)
    return clean(" ".join(filter(None, (f"{min(1.0, share):.0%}", speed, "·", what))))


def environment_used(task: TaskView) -> str:
    """What it runs in, with the version once that is known: ``torch@1767225600``."""
    name = task["container"] or ""
    return name if "@" in name or task["version"] is None else f"{name}@{task['version']}"


def task_problem(task: TaskView) -> bool:
    """What somebody should look at."""
    return task["state"] in _BAD_ENDS or (task["state"] not in ENDED and "unreachable" in task["reason"])


def node_problem(node: NodeView) -> bool:
    return node["state"] != NodeState.ONLINE or node["drained"]


def node_symbol(node: NodeView) -> tuple[str, str]:
    """A sign and its tone: ``◇`` is drained; a node that can't be reached stays one, drained or not."""
    if node["drained"] and node["state"] == NodeState.ONLINE:
        return "◇", "warn"
    return symbol(node["state"]), tone(node["state"])


def node_state(node: NodeView) -> list[tuple[str, str]]:
    """Its state in words with their tones, and that it is drained."""
    sign, colour = node_symbol(node)
    if not node["drained"]:
        return [(f"{sign} {clean(node['state'])}", colour)]
    if node["state"] == NodeState.ONLINE:
        return [(f"{sign} drained", "warn")]
    return [(f"{sign} {clean(node['state'])}", colour), (", drained", "warn")]


def node_reason(node: NodeView) -> str:
    """Why it is drained, or out of reach."""
    parts = (node["drain_reason"] if node["drained"] else "", node["reason"])
    return clean("; ".join(part for part in parts if part))


def task_gpus(task: TaskView) -> str:
    return ",".join(map(str, task["gpus"]))


def held_cores(node: NodeView) -> str:
    return f"{format_cores(node['cores'] - node['cores_free'])}/{format_cores(node['cores'])}"


def held_memory(node: NodeView) -> str:
    return f"{format_size(node['memory'] - node['memory_free'])}/{format_size(node['memory'])}"
