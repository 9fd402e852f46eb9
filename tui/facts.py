"""What the tables say about tasks and nodes: columns, filter fields, colours by meaning. Pure."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from hakuriver.lifecycle import ENDED, LIVE, NodeState, State
from hakuriver.units import format_cores, format_duration, format_size
from hakuriver.views import NodeView, TaskView
from tui.filters import Grammar
from tui.plain import clean
from tui.rows import Column

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
_ORDER: dict[str, int] = {
    state: place for place, state in enumerate((*(s for s in State if s in LIVE), *State))
}


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
    if not task["started_at"]:
        return ""
    end = instant(task["ended_at"]) if task["ended_at"] else (time.time() if now is None else now)
    return format_duration(end - instant(task["started_at"]))


@lru_cache(maxsize=4096)
def _command(argv: tuple[str, ...]) -> str:
    return clean(shlex.join(argv))


def command(task: TaskView) -> str:
    """The argv as a shell would need it typed, in one line."""
    return _command(tuple(map(str, task["command"])))


def detail(task: TaskView) -> str:
    """Why the task is where it is: what it waits for, how it ended."""
    if task["intent"] == "kill" and task["intent_due_at"] and task["state"] not in ENDED:
        return f"will be killed at {clock(task['intent_due_at'])}, u takes it back"
    if task["error"]:
        return clean(task["error"])
    if task["signal"]:
        return f"signal {task['signal']}"
    if task["exit_code"]:
        return clean(task["reason"]) or f"exit code {task['exit_code']}"
    return clean(task["reason"] or "")


def task_problem(task: TaskView) -> bool:
    """What somebody should look at."""
    return task["state"] in _BAD_ENDS or (task["state"] not in ENDED and "unreachable" in task["reason"])


def node_problem(node: NodeView) -> bool:
    return node["state"] != NodeState.ONLINE or node["drained"]


def task_gpus(task: TaskView) -> str:
    return ",".join(map(str, task["gpus"]))


def _state_text(task: TaskView) -> str:
    text = "killing" if task["intent_due_at"] and task["state"] not in ENDED else task["state"]
    return f"{symbol(task['state'])} {clean(text).replace('_', ' ')}"


def _size(size: int) -> str:
    return format_size(size) if size else ""


TASK_COLUMNS: tuple[Column[TaskView], ...] = (
    Column("id", "ID", 5, lambda t: str(t["id"]), lambda t: t["id"], right=True, descending=True),
    Column(
        "state",
        "STATE",
        12,
        _state_text,
        lambda t: _ORDER.get(t["state"], 99),
        lambda t: tone(t["state"]),
    ),
    Column("node", "NODE", 8, lambda t: clean(t["node"] or ""), lambda t: t["node"] or "", drop=1),
    Column(
        "name",
        "NAME",
        12,
        lambda t: clean(t["name"] or ""),
        lambda t: t["name"] or "",
        lambda _: "accent",
        drop=6,
    ),
    Column("owner", "OWNER", 8, lambda t: clean(t["owner"]), lambda t: t["owner"], lambda _: "muted", drop=5),
    Column(
        "cores",
        "CPU",
        4,
        lambda t: format_cores(t["cores"]),
        lambda t: t["cores"],
        drop=4,
        right=True,
        descending=True,
    ),
    Column(
        "memory",
        "MEM",
        5,
        lambda t: _size(t["memory"]),
        lambda t: t["memory"],
        drop=4,
        right=True,
        descending=True,
    ),
    Column("gpus", "GPU", 5, task_gpus, lambda t: len(t["gpus"]), drop=7, descending=True),
    Column(
        "time",
        "TIME",
        7,
        elapsed,
        lambda t: t["started_at"] or "",
        drop=2,
        right=True,
        descending=True,
        ticks=True,
    ),
    Column("command", "COMMAND", 19, command, command, flex=3),
    Column(
        "detail",
        "DETAIL",
        16,
        detail,
        detail,
        lambda t: "bad" if task_problem(t) else "muted",
        flex=2,
        drop=3,
    ),
)


def _cpu(node: NodeView) -> float:
    return node["usage"]["cpu_percent"] if node["usage"] else -1.0


def _memory_used(node: NodeView) -> int:
    return node["usage"]["memory_used"] if node["usage"] else -1


def _gpus_held(node: NodeView) -> int:
    return sum(gpu["task"] is not None for gpu in node["gpus"])


def _node_state(node: NodeView) -> str:
    return f"{symbol(node['state'])} {'drained' if node['drained'] else clean(node['state'])}"


def _node_reason(node: NodeView) -> str:
    if node["drained"]:
        return clean(node["drain_reason"] or "drained")
    if node["reason"]:
        return clean(node["reason"])
    return clean("; ".join(f"{name}: {why}" for name, why in sorted(node["unavailable"].items())))


def held_cores(node: NodeView) -> str:
    return f"{format_cores(node['cores'] - node['cores_free'])}/{format_cores(node['cores'])}"


def held_memory(node: NodeView) -> str:
    return f"{format_size(node['memory'] - node['memory_free'])}/{format_size(node['memory'])}"


NODE_COLUMNS: tuple[Column[NodeView], ...] = (
    Column("name", "NAME", 12, lambda n: clean(n["name"]), lambda n: n["name"], flex=1),
    Column(
        "state",
        "STATE",
        13,
        _node_state,
        lambda n: n["state"],
        lambda n: "warn" if n["drained"] else tone(n["state"]),
    ),
    Column("tasks", "TASKS", 5, lambda n: str(n["tasks"]), lambda n: n["tasks"], right=True, descending=True),
    Column(
        "held", "CORES", 9, held_cores, lambda n: n["cores"] - n["cores_free"], right=True, descending=True
    ),
    Column(
        "cpu", "CPU", 4, lambda n: f"{_cpu(n):.0f}%" if n["usage"] else "–", _cpu, right=True, descending=True
    ),
    Column(
        "load",
        "LOAD",
        6,
        lambda n: f"{n['usage']['load']:.2f}" if n["usage"] else "–",
        lambda n: n["usage"]["load"] if n["usage"] else -1.0,
        drop=4,
        right=True,
        descending=True,
    ),
    Column(
        "memory",
        "MEM HELD",
        11,
        held_memory,
        lambda n: n["memory"] - n["memory_free"],
        drop=2,
        right=True,
        descending=True,
    ),
    Column(
        "used",
        "USED",
        5,
        lambda n: format_size(_memory_used(n)) if n["usage"] else "–",
        _memory_used,
        right=True,
        descending=True,
    ),
    Column(
        "gpus",
        "GPU",
        5,
        lambda n: f"{_gpus_held(n)}/{len(n['gpus'])}" if n["gpus"] else "–",
        _gpus_held,
        drop=1,
        right=True,
        descending=True,
    ),
    Column(
        "numa",
        "NUMA",
        4,
        lambda n: str(len(n["numa"]) or "–"),
        lambda n: len(n["numa"]),
        drop=5,
        right=True,
        descending=True,
    ),
    Column(
        "executors",
        "EXECUTORS",
        15,
        lambda n: clean(" ".join(n["executors"])),
        lambda n: " ".join(n["executors"]),
        lambda _: "muted",
        drop=6,
    ),
    Column(
        "seen",
        "SEEN",
        8,
        lambda n: clock(n["seen_at"])[-8:],
        lambda n: n["seen_at"] or "",
        lambda _: "muted",
        drop=7,
        right=True,
    ),
    Column(
        "reason",
        "NOTE",
        10,
        _node_reason,
        _node_reason,
        lambda n: "bad" if n["state"] == NodeState.UNREACHABLE else "muted",
        flex=3,
        drop=3,
    ),
)


def _task_text(task: TaskView) -> str:
    facts = (task["name"], task["owner"], task["node"], task["reason"], task["error"])
    return " ".join([str(task["id"]), *task["tags"], *map(str, task["command"]), *(f for f in facts if f)])


def _task_states(task: TaskView) -> Iterable[str]:
    return task["state"], "ended" if task["state"] in ENDED else "live"


TASK_GRAMMAR = Grammar[TaskView](
    {
        "state": _task_states,
        "owner": lambda t: (t["owner"],),
        "node": lambda t: (t["node"] or "",),
        "name": lambda t: (t["name"] or "",),
        "tag": lambda t: t["tags"],
        "id": lambda t: (str(t["id"]),),
        "batch": lambda t: (str(t["batch"]),),
        "kind": lambda t: (t["kind"],),
        "executor": lambda t: (t["executor"] or "",),
        "target": lambda t: (t["target"] or "",),
    },
    _task_text,
)
NODE_GRAMMAR = Grammar[NodeView](
    {
        "state": lambda n: (n["state"], "drained" if n["drained"] else ""),
        "node": lambda n: (n["name"],),
        "name": lambda n: (n["name"],),
        "executor": lambda n: n["executors"],
        "label": lambda n: [f"{key}={value}" for key, value in n["labels"].items()],
        "gpu": lambda n: [gpu["model"] for gpu in n["gpus"]],
    },
    lambda n: " ".join((n["name"], n["state"], n["reason"], n["address"], *n["executors"])),
)
