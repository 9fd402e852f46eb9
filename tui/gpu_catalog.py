"""The table of all GPUs of the cluster: its columns, and what filters know of them. Pure."""

from __future__ import annotations

from hakuriver.views import GpuView
from tui import gpus
from tui.columns import Column
from tui.facts import elapsed, headline
from tui.filters import Grammar
from tui.gpus import GpuRow
from tui.plain import clean

_METER = 10


def _meter(value: float | None) -> str:
    """A fraction as text."""
    if value is None:
        return ""
    full = round(min(1.0, max(0.0, value)) * _METER)
    return "━" * full + "─" * (_METER - full)


def _known(value: float | None) -> float:
    return -1.0 if value is None else value


def _state(row: GpuRow) -> str:
    return f"{gpus.glyph(row.gpu)} {gpus.held_by(row.gpu)}"


def _note(row: GpuRow) -> str:
    """What is wrong with it, or whose it is when not ours."""
    held = gpus.held_by(row.gpu)
    if held in (gpus.Held.LOST, gpus.Held.EXTERNAL):
        return gpus.who(row.gpu, lambda _: row.task)
    if not row.online:
        return "out of reach"
    return "drained" if row.drained else ""


def _warm(gpu: GpuView) -> str:
    return "bad" if (gpu["temperature"] or 0) >= 88 else "warn" if (gpu["temperature"] or 0) >= 80 else ""


GPU_COLUMNS: tuple[Column[GpuRow], ...] = (
    Column("node", "NODE", 10, lambda r: clean(r.node), lambda r: r.key, most=20),
    Column(
        "index",
        "GPU",
        3,
        lambda r: str(r.gpu["index"]),
        lambda r: r.gpu["index"],
        lambda _: "title",
        right=True,
    ),
    Column(
        "state",
        "STATE",
        10,
        _state,
        lambda r: str(gpus.held_by(r.gpu)),
        lambda r: gpus.tone_of(r.gpu),
    ),
    Column(
        "use",
        "USE",
        4,
        lambda r: gpus.percent(r.gpu["utilization"]),
        lambda r: _known(r.gpu["utilization"]),
        right=True,
        descending=True,
    ),
    Column(
        "meter",
        "",
        _METER,
        lambda r: _meter(gpus.load(r.gpu)),
        lambda r: _known(r.gpu["utilization"]),
        lambda r: gpus.tone_of(r.gpu),
        drop=5,
    ),
    Column(
        "memory",
        "MEMORY",
        9,
        lambda r: gpus.memory_of(r.gpu),
        lambda r: _known(gpus.share(r.gpu)),
        right=True,
        descending=True,
    ),
    Column(
        "full",
        "",
        _METER,
        lambda r: _meter(gpus.share(r.gpu)),
        lambda r: _known(gpus.share(r.gpu)),
        lambda r: gpus.fullness(gpus.share(r.gpu), "info"),
        drop=6,
    ),
    Column(
        "heat",
        "TEMP",
        5,
        lambda r: gpus.degrees(r.gpu["temperature"]),
        lambda r: _known(r.gpu["temperature"]),
        lambda r: _warm(r.gpu),
        drop=3,
        right=True,
        descending=True,
    ),
    Column(
        "power",
        "POWER",
        5,
        lambda r: gpus.watts(r.gpu["power"]),
        lambda r: _known(r.gpu["power"]),
        drop=7,
        right=True,
        descending=True,
    ),
    Column(
        "numa",
        "NUMA",
        4,
        lambda r: "–" if r.gpu["numa"] is None else str(r.gpu["numa"]),
        lambda r: _known(r.gpu["numa"]),
        drop=8,
        right=True,
    ),
    Column(
        "model",
        "MODEL",
        10,
        lambda r: gpus.short_model(r.gpu["model"]),
        lambda r: r.gpu["model"],
        lambda _: "muted",
        most=28,
        drop=4,
    ),
    Column(
        "task",
        "TASK",
        6,
        lambda r: "" if r.gpu["task"] is None else str(r.gpu["task"]),
        lambda r: r.gpu["task"] or 0,
        right=True,
        descending=True,
    ),
    Column(
        "owner",
        "OWNER",
        6,
        lambda r: clean(r.task["owner"]) if r.task else "",
        lambda r: r.task["owner"] if r.task else "",
        most=16,
        drop=1,
    ),
    Column(
        "time",
        "TIME",
        7,
        lambda r: elapsed(r.task) if r.task else "",
        lambda r: r.task["started_at"] or "" if r.task else "",
        drop=2,
        right=True,
        descending=True,
        ticks=True,
    ),
    Column(
        "name",
        "WHAT",
        10,
        lambda r: headline(r.task) if r.task else _note(r),
        lambda r: headline(r.task) if r.task else _note(r),
        lambda r: "" if r.task else gpus.tone_of(r.gpu),
        flex=1,
    ),
)
GPU_GRAMMAR = Grammar[GpuRow](
    {
        "node": lambda r: (r.node,),
        "state": lambda r: (str(gpus.held_by(r.gpu)), "held" if r.gpu["task"] is not None else ""),
        "model": lambda r: (gpus.short_model(r.gpu["model"]),),
        "owner": lambda r: (r.task["owner"],) if r.task else (),
        "task": lambda r: (str(r.gpu["task"]),) if r.gpu["task"] is not None else (),
        "gpu": lambda r: (str(r.gpu["index"]),),
        "numa": lambda r: (str(r.gpu["numa"]),),
    },
    lambda r: " ".join(
        (r.node, gpus.short_model(r.gpu["model"]), r.gpu["uuid"], gpus.who(r.gpu, lambda _: r.task))
    ).lower(),
    exact=frozenset({"task", "gpu", "numa"}),
)


def gpu_problem(row: GpuRow) -> bool:
    """What somebody should look at: lost, held and idle, or used by others."""
    return gpus.held_by(row.gpu) in (gpus.Held.LOST, gpus.Held.IDLE, gpus.Held.EXTERNAL)
