"""The tables of tasks and nodes: their columns, and what filters know of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hakuriver.lifecycle import ENDED, LIVE, NodeState, State
from hakuriver.units import format_cores, format_size
from hakuriver.views import NodeView, TaskView
from tui import gpus
from tui.columns import Column
from tui.facts import (
    brief,
    brief_detail,
    clock,
    command,
    detail,
    elapsed,
    environment_used,
    held,
    held_cores,
    held_memory,
    node_reason,
    node_state,
    node_symbol,
    symbol,
    task_gpus,
    task_problem,
    tone,
)
from tui.filters import Grammar
from tui.plain import clean

_ORDER: dict[str, int] = {
    state: place for place, state in enumerate((*(s for s in State if s in LIVE), *State))
}


def _state_text(task: TaskView) -> str:
    text = clean("killing" if held(task) else task["state"]).replace("_", " ")
    code = f" {task['exit_code']}" if task["state"] == State.FAILED and task["exit_code"] else ""
    return f"{symbol(task['state'])} {text}{code}"


def _size(size: int) -> str:
    return format_size(size) if size else ""


_DETAIL_TONES: dict[str, str] = {State.PENDING: "wait", State.PREPARING: "info"}


def _detail_tone(task: TaskView) -> str:
    return "bad" if task_problem(task) else _DETAIL_TONES.get(task["state"], "muted")


def _in_batch(task: TaskView) -> str:
    return f"{task['batch']}·{task['batch_index'] + 1}" if task["batch_size"] > 1 else ""


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
    Column("node", "NODE", 6, lambda t: clean(t["node"] or ""), lambda t: t["node"] or "", most=20, drop=1),
    Column(
        "name",
        "NAME",
        8,
        lambda t: clean(t["name"] or ""),
        lambda t: t["name"] or "",
        lambda _: "accent",
        most=36,
        drop=3,
        optional=True,
    ),
    Column(
        "owner",
        "OWNER",
        6,
        lambda t: clean(t["owner"]),
        lambda t: t["owner"],
        lambda _: "muted",
        most=16,
        drop=6,
    ),
    Column(
        "cores",
        "CPU",
        4,
        lambda t: format_cores(t["cores"]),
        lambda t: t["cores"],
        drop=5,
        right=True,
        descending=True,
    ),
    Column(
        "memory",
        "MEM",
        5,
        lambda t: _size(t["memory"]),
        lambda t: t["memory"],
        drop=5,
        right=True,
        descending=True,
        optional=True,
    ),
    Column(
        "gpus",
        "GPU",
        3,
        task_gpus,
        lambda t: len(t["gpus"]),
        most=16,
        drop=7,
        descending=True,
        optional=True,
    ),
    Column(
        "batch",
        "BATCH",
        6,
        _in_batch,
        lambda t: (t["batch"], t["batch_index"]),
        lambda _: "muted",
        most=12,
        drop=9,
        descending=True,
        optional=True,
    ),
    Column(
        "priority",
        "PRIO",
        4,
        lambda t: str(t["priority"] or ""),
        lambda t: t["priority"],
        drop=8,
        right=True,
        descending=True,
        optional=True,
    ),
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
    Column("command", "COMMAND", 10, brief, command, flex=3),
    Column(
        "detail",
        "DETAIL",
        16,
        brief_detail,
        detail,
        _detail_tone,
        flex=2,
        drop=4,
    ),
)


def _cpu(node: NodeView) -> float:
    return node["usage"]["cpu_percent"] if node["usage"] else -1.0


def _memory_used(node: NodeView) -> int:
    return node["usage"]["memory_used"] if node["usage"] else -1


def _state_words(node: NodeView) -> str:
    return "".join(text for text, _ in node_state(node))


def _node_note(node: NodeView) -> str:
    why = node_reason(node)
    return why or clean("; ".join(f"{name}: {text}" for name, text in sorted(node["unavailable"].items())))


def _note_tone(node: NodeView) -> str:
    if node["state"] == NodeState.UNREACHABLE:
        return "bad"
    return "warn" if node["drained"] else "muted"


def _gpus_held(node: NodeView) -> str:
    return f"{gpus.count_held(node)}/{len(gpus.devices(node))}" if node["gpus"] else "–"


NODE_COLUMNS: tuple[Column[NodeView], ...] = (
    Column("name", "NAME", 12, lambda n: clean(n["name"]), lambda n: n["name"], flex=1),
    Column(
        "state",
        "STATE",
        13,
        _state_words,
        lambda n: (n["drained"], n["state"]),
        lambda n: node_symbol(n)[1],
        most=24,
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
        _gpus_held,
        gpus.count_held,
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
        _node_note,
        _node_note,
        _note_tone,
        flex=3,
        drop=3,
    ),
)


def _task_text(task: TaskView) -> str:
    return (
        f"{task['id']} {' '.join(task['tags'])} {' '.join(map(str, task['command']))} {task['name'] or ''} "
        f"{task['owner']} {task['node'] or ''} {task['reason']} {task['error'] or ''}"
    ).lower()


_STATE_WORDS: dict[str, tuple[str, ...]] = {
    str(state): (str(state), "ended" if state in ENDED else "live") for state in State
}


def _task_states(task: TaskView) -> Iterable[str]:
    return _STATE_WORDS.get(task["state"], (task["state"],))


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
        "env": lambda t: (environment_used(t),),
    },
    _task_text,
    exact=frozenset({"batch"}),
)
NODE_GRAMMAR = Grammar[NodeView](
    {
        "state": lambda n: (n["state"], "drained" if n["drained"] else ""),
        "node": lambda n: (n["name"],),
        "name": lambda n: (n["name"],),
        "executor": lambda n: n["executors"],
        "label": lambda n: [f"{key}={value}" for key, value in n["labels"].items()],
        "gpu": lambda n: [gpus.short_model(gpu["model"]) for gpu in n["gpus"]],
    },
    lambda n: " ".join((n["name"], n["state"], n["reason"], n["address"], *n["executors"])).lower(),
)
