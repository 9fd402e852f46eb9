"""What there is to say about GPUs: whose each is, how busy, in words, one cell, or a row of a table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from hakuriver.lifecycle import NodeState
from hakuriver.units import format_size
from hakuriver.views import GpuView, NodeView, TaskView
from tui.facts import headline
from tui.plain import clean

Whose = Callable[[int], TaskView | None]
"""A task by its id, as far as it is known."""
_LEVELS = "▁▂▃▄▅▆▇█"
_IDLE_BELOW = 1.0


class Held(StrEnum):
    """Who has a GPU; ``idle``: a task of ours that doesn't use it."""

    FREE = "free"
    BUSY = "held"
    IDLE = "idle"
    EXTERNAL = "external"
    LOST = "lost"
    SPLIT = "split"  # into MIG instances: nothing runs on itself


TONES: Mapping[Held, str] = {
    Held.FREE: "muted",
    Held.BUSY: "good",
    Held.IDLE: "wait",
    Held.EXTERNAL: "warn",
    Held.LOST: "bad",
    Held.SPLIT: "faint",
}


def held_by(gpu: GpuView) -> Held:
    """Who has it; that it is gone comes before everything."""
    if gpu["lost"]:
        return Held.LOST
    if gpu["mig"]:
        return Held.SPLIT
    if gpu["task"] is not None:
        used = gpu["utilization"]
        return Held.IDLE if used is not None and used < _IDLE_BELOW else Held.BUSY
    return Held.EXTERNAL if gpu["external"] else Held.FREE


def tone_of(gpu: GpuView) -> str:
    return TONES[held_by(gpu)]


def glyph(gpu: GpuView) -> str:
    """One cell, readable without colours: ``·`` free, a level ours, ``▒`` somebody else's, ``✗`` lost."""
    held = held_by(gpu)
    if held in (Held.BUSY, Held.IDLE):
        return _LEVELS[min(7, int((gpu["utilization"] or 0.0) / 12.5))]
    return {Held.EXTERNAL: "▒", Held.LOST: "✗", Held.SPLIT: "/"}.get(held, "·")


def devices(node: NodeView) -> list[GpuView]:
    """What tasks could have: not those that are split into instances."""
    return [gpu for gpu in node["gpus"] if not gpu["mig"]]


def count_held(node: NodeView) -> int:
    return sum(gpu["task"] is not None for gpu in devices(node))


def short_model(model: str) -> str:
    """``NVIDIA A100-SXM4-80GB`` → ``A100-SXM4-80GB``: the maker says nothing new."""
    text = clean(model)
    for maker in ("NVIDIA ", "GeForce "):
        text = text.removeprefix(maker)
    return text


def memory_of(gpu: GpuView) -> str:
    used = "–" if gpu["memory_used"] is None else format_size(gpu["memory_used"])
    return f"{used}/{format_size(gpu['memory'])}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}%"


def degrees(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}°C"


def watts(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}W"


def share(gpu: GpuView) -> float | None:
    """How much of its memory is used, 0…1."""
    if gpu["memory_used"] is None or not gpu["memory"]:
        return None
    return gpu["memory_used"] / gpu["memory"]


def load(gpu: GpuView) -> float | None:
    """How busy it is, 0…1."""
    return None if gpu["utilization"] is None else gpu["utilization"] / 100


def fullness(used: float | None, otherwise: str) -> str:
    """The tone of something that can be full."""
    return "bad" if (used or 0) > 0.95 else "warn" if (used or 0) > 0.85 else otherwise


def who(gpu: GpuView, whose: Whose) -> str:
    """Whose it is, in a few words; nothing when it is free."""
    held = held_by(gpu)
    if held is Held.LOST:
        return f"lost: {clean(gpu['lost'] or '')}"
    if held is Held.EXTERNAL:
        return f"external{_strangers(gpu)}"
    if gpu["task"] is None:
        return "split into instances" if held is Held.SPLIT else ""
    task = whose(gpu["task"])
    name = f" {headline(task)} · {clean(task['owner'])}" if task else ""
    return f"{gpu['task']}{name}"


def _strangers(gpu: GpuView) -> str:
    names = sorted(
        {each["user"] or f"pid {each['pid']}" for each in gpu["processes"] if each["task"] is None}
    )
    return f": {clean(', '.join(names))}" if names else ""


@dataclass(frozen=True, slots=True)
class GpuRow:
    """A GPU in the table of all GPUs."""

    node: str
    online: bool
    drained: bool
    gpu: GpuView
    task: TaskView | None

    @property
    def key(self) -> tuple[str, int]:
        return self.node, self.gpu["index"]


def rows_of(nodes: Iterable[NodeView], whose: Whose) -> dict[tuple[str, int], GpuRow]:
    """Every GPU of these nodes."""
    made = (
        GpuRow(
            node["name"],
            node["state"] == NodeState.ONLINE,
            node["drained"],
            gpu,
            None if gpu["task"] is None else whose(gpu["task"]),
        )
        for node in nodes
        for gpu in node["gpus"]
    )
    return {row.key: row for row in made}
