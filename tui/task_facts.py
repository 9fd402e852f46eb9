"""Everything known about one task, as labelled facts; why it waits, and its attempts, as tables. Pure."""

from __future__ import annotations

from hakuriver.lifecycle import State
from hakuriver.units import format_cores, format_duration, format_size
from hakuriver.views import AttemptView, BatchView, ExplainView, NodeReason, TaskView
from tui.columns import Column
from tui.facts import clock, detail, elapsed, environment_used, span, symbol, task_gpus, tone
from tui.plain import clean

Fact = tuple[str, str]
"""Label and text."""


def state_of(task: TaskView) -> list[tuple[str, str]]:
    """The state and why, with their tones."""
    pieces = [(f"{symbol(task['state'])} {clean(task['state']).replace('_', ' ')}", tone(task["state"]))]
    if why := detail(task):
        pieces.append((f"  {why}", "wait" if task["state"] == State.PENDING else "muted"))
    return pieces


def facts_of(task: TaskView, batch: BatchView | None) -> list[Fact]:
    """What was asked for and what it got; what is as always is left out."""
    place = clean(task["node"] or "–") + (f" (asked for {clean(task['target'])})" if task["target"] else "")
    runs = clean(" ".join(filter(None, (task["executor"], environment_used(task), task["image"])))) or "–"
    ran = f"{clock(task['started_at'])} → {clock(task['ended_at'])}   {elapsed(task)}"
    facts = [
        ("node", place),
        ("resources", _resources(task)),
        ("owner", clean(task["owner"])),
        ("runs as", runs),
        ("image id", clean(task["image_digest"] or "")),
        ("batch", _batch(task, batch)),
        ("created", clock(task["created_at"])),
        ("ran", ran if task["started_at"] else ""),
        ("tags", clean(" ".join(task["tags"]))),
        ("order", _order(task)),
        ("limits", _limits(task)),
        ("wants", _wants(task)),
        ("folder", clean(task["workdir"] or "")),
    ]
    return [(label, text) for label, text in facts if text]


def _resources(task: TaskView) -> str:
    parts = [f"{format_cores(task['cores'])} core{'s' * (task['cores'] != 1)}"]
    if task["wants"].get("pin"):
        parts[0] += " of its own"
    parts.append(format_size(task["memory"]) if task["memory"] else "no memory cap")
    if task["gpus"]:
        parts.append(f"GPU {task_gpus(task)}")
    elif count := task["wants"].get("gpu_count"):
        model = clean(task["wants"].get("gpu_model", ""))
        parts.append(f"{count} GPU{'s' * (count != 1)}{f' {model}' if model else ''}")
    if task["numa"] is not None:
        parts.append(f"NUMA node {task['numa']}")
    return ", ".join(parts)


def _batch(task: TaskView, batch: BatchView | None) -> str:
    if task["batch_size"] <= 1:
        return ""
    text = f"{task['batch']}: {task['batch_index'] + 1} of {task['batch_size']}"
    if batch is not None:
        text += " · " + ", ".join(
            f"{count} {clean(state)}" for state, count in batch["states"].items() if count
        )
    if task["max_running"]:
        text += f" · {task['max_running']} at a time"
    return text


def _order(task: TaskView) -> str:
    parts = [f"priority {task['priority']}" if task["priority"] else ""]
    if task["after"]:
        shown = ", ".join(map(str, task["after"][:8])) + ("…" if len(task["after"]) > 8 else "")
        parts.append(f"after {shown}")
    return " · ".join(filter(None, parts))


def _limits(task: TaskView) -> str:
    parts = []
    if task["time_limit"] is not None:
        notice = task["wants"].get("notice")
        told = f", told {format_duration(notice['seconds'])} before" if notice else ""
        parts.append(f"at most {format_duration(task['time_limit'])}{told}")
    if task["retries"]:
        parts.append(f"{task['retried']} of {task['retries']} retries used")
    if task["on_node_loss"] != "keep":
        parts.append(f"on node loss {clean(task['on_node_loss'])}")
    return " · ".join(parts)


def _wants(task: TaskView) -> str:
    wants = task["wants"]
    parts = [f"{key}={value}" for key, value in sorted(wants.get("labels", {}).items())]
    if "gpu_memory" in wants:
        parts.append(f"{format_size(wants['gpu_memory'])} on each GPU")
    if "placement" in wants:
        parts.append(wants["placement"])
    if "shm_size" in wants:
        parts.append(f"shm {format_size(wants['shm_size'])}")
    parts += [name.replace("_", " ") for name in ("private_network", "private_pid") if wants.get(name)]
    return clean(" · ".join(parts))


def ahead_of(found: ExplainView) -> str:
    """What else stands between a task and its start; the table of nodes stands below."""
    ahead = found["ahead"]
    before = f"{ahead} task{'s' * (ahead != 1)} before it" if ahead else "nothing before it"
    if not found["reserved"]:
        return before
    at = f", enough at about {soon(found['reserved_at'])}" if found["reserved_at"] else ""
    return f"{before} · {clean(found['reserved'])} keeps room for it{at}"


def soon(text: str | None) -> str:
    """A time to come, to the minute."""
    return clock(text).rpartition(":")[0] or "–"


WHY_COLUMNS: tuple[Column[NodeReason], ...] = (
    Column("node", "NODE", 8, lambda r: clean(r["node"]), lambda r: r["node"], most=20),
    Column(
        "fits",
        "NOW",
        4,
        lambda r: "✓" if r["fits"] else "✗",
        lambda r: (not r["fits"], r["at"] or "~", r["node"]),
        lambda r: "good" if r["fits"] else "muted",
    ),
    Column("why", "WHY", 20, lambda r: clean(r["why"]), lambda r: r["why"], flex=1),
    Column(
        "tasks",
        "WAITS FOR",
        9,
        lambda r: ", ".join(map(str, r["tasks"])),
        lambda r: len(r["tasks"]),
        lambda _: "accent",
        most=40,
        drop=2,
    ),
    Column(
        "at",
        "ABOUT",
        5,
        lambda r: soon(r["at"]),
        lambda r: r["at"] or "~",
        most=16,
        drop=1,
        right=True,
    ),
)


def _exit(attempt: AttemptView) -> str:
    if attempt["signal"]:
        return f"sig {attempt['signal']}"
    return "" if attempt["exit_code"] is None else str(attempt["exit_code"])


ATTEMPT_COLUMNS: tuple[Column[AttemptView], ...] = (
    Column(
        "attempt", "NO", 3, lambda a: str(a["attempt"]), lambda a: a["attempt"], right=True, descending=True
    ),
    Column(
        "state",
        "STATE",
        12,
        lambda a: f"{symbol(a['state'])} {clean(a['state']).replace('_', ' ')}",
        lambda a: a["state"],
        lambda a: tone(a["state"]),
    ),
    Column("node", "NODE", 6, lambda a: clean(a["node"] or "–"), lambda a: a["node"] or "", most=20),
    Column(
        "executor", "RUNS AS", 8, lambda a: clean(a["executor"] or ""), lambda a: a["executor"] or "", drop=4
    ),
    Column(
        "version",
        "VERSION",
        10,
        lambda a: str(a["version"] or ""),
        lambda a: a["version"] or 0,
        lambda _: "muted",
        drop=5,
        right=True,
        optional=True,
    ),
    Column(
        "started",
        "STARTED",
        8,
        lambda a: clock(a["started_at"])[-8:],
        lambda a: a["started_at"] or "",
        lambda _: "muted",
        drop=3,
        right=True,
    ),
    Column(
        "ended",
        "ENDED",
        8,
        lambda a: clock(a["ended_at"])[-8:],
        lambda a: a["ended_at"] or "",
        lambda _: "muted",
        drop=2,
        right=True,
    ),
    Column(
        "time",
        "TIME",
        7,
        lambda a: span(a["started_at"], a["ended_at"]),
        lambda a: a["started_at"] or "",
        drop=1,
        right=True,
        ticks=True,
    ),
    Column(
        "exit",
        "EXIT",
        6,
        _exit,
        lambda a: -1 if a["exit_code"] is None else a["exit_code"],
        right=True,
    ),
    Column(
        "why",
        "WHY",
        12,
        lambda a: clean(a["error"] or a["reason"] or ""),
        lambda a: a["error"] or a["reason"] or "",
        lambda _: "muted",
        flex=1,
    ),
)
