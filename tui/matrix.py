"""The places of a cluster as a matrix: nodes and their NUMA nodes down, GPUs across. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hakuriver.lifecycle import NodeState
from hakuriver.target import Target
from hakuriver.units import format_cores, format_size
from hakuriver.views import GpuView, NodeView, NumaView
from tui import gpus
from tui.facts import node_reason, node_state
from tui.plain import clean
from tui.targets import Words

_TICK = "■"
_CELLS: Mapping[gpus.Held, tuple[str, str]] = {
    gpus.Held.FREE: ("○", ""),
    gpus.Held.BUSY: ("", "muted"),
    gpus.Held.IDLE: ("", "wait"),
    gpus.Held.EXTERNAL: ("ext", "warn"),
    gpus.Held.LOST: ("lost", "bad"),
    gpus.Held.SPLIT: ("mig", "faint"),
}
"""What stands there, nothing for the task's number: here what is free stands out, not what is busy."""


@dataclass(frozen=True)
class Row:
    """A line of the matrix. Without ``node`` it is *anywhere*; its columns are how many GPUs then."""

    node: NodeView | None = None
    numa: NumaView | None = None
    devices: Mapping[int, GpuView] | None = None

    @property
    def key(self) -> tuple[str, int | None]:
        return (self.node["name"] if self.node else "", self.numa["id"] if self.numa else None)


def rows_of(nodes: Iterable[NodeView]) -> list[Row]:
    """Anywhere, then each node by name; one with several NUMA nodes has a line for each, with its GPUs."""
    rows = [Row()]
    for node in sorted(nodes, key=lambda each: each["name"]):
        if node["state"] == NodeState.REMOVED:
            continue
        numas = node["numa"] if len(node["numa"]) > 1 else []
        known = {numa["id"] for numa in numas}
        rows.append(Row(node, None, {gpu["index"]: gpu for gpu in node["gpus"] if gpu["numa"] not in known}))
        for numa in numas:
            local = {gpu["index"]: gpu for gpu in node["gpus"] if gpu["numa"] == numa["id"]}
            rows.append(Row(node, numa, local))
    return rows


def columns_of(rows: Iterable[Row]) -> list[int]:
    """The GPU numbers that any node has."""
    return sorted({index for row in rows for index in row.devices or ()})


def most_gpus(rows: Iterable[Row]) -> int:
    """How many GPUs a task can have at most."""
    counts = {row.node["name"]: len(gpus.devices(row.node)) for row in rows if row.node}
    return max(counts.values(), default=0)


def ticked_row(row: Row, words: Words) -> str:
    """The mark in front of a line; with a number when there are several tasks of it."""
    targets = [word for word in words if isinstance(word, Target)]
    if row.node is None:
        return "" if targets else _TICK
    mine = [each for each in targets if each.node == row.node["name"]]
    if row.numa is not None:
        mine = [each for each in mine if each.numa == row.numa["id"]]
    return f"{_TICK}{len(mine) if len(mine) > 1 else ''}" if mine else ""


def cell(row: Row, column: int, words: Words, count: int) -> tuple[str, str] | None:
    """What stands in a column of a line, with its tone; None where there is nothing to take.

    ``column``: a GPU's number, or of *anywhere* the number of GPUs.
    """
    if row.node is None:
        return (f"{_TICK}{column}", "accent") if column == count else (str(column), "muted")
    gpu = (row.devices or {}).get(column)
    if gpu is None:
        return None
    held = gpus.held_by(gpu)
    sign, tone = _CELLS[held]
    text = sign or str(gpu["task"])
    mine = [word for word in words if isinstance(word, Target) and word.node == row.node["name"]]
    places = [number for number, word in enumerate(mine, 1) if column in word.gpus]
    if not places:
        return text, tone
    if held is not gpus.Held.FREE:
        return f"{_TICK}{text}", "warn"
    return f"{_TICK}{places[0] if len(mine) > 1 else ''}", "accent"


def capacity(row: Row) -> tuple[str, str]:
    """Free cores and memory of a line; a NUMA node's are what it has, *anywhere* has numbers of GPUs."""
    if row.node is None:
        return "GPUs:", ""
    if row.numa is not None:
        return f"{len(row.numa['cpus'])} cpus", format_size(row.numa["memory"])
    free = f"{format_cores(row.node['cores_free'])}/{format_cores(row.node['cores'])}"
    return free, format_size(row.node["memory_free"])


def describe(row: Row, column: int | None, rows: Iterable[Row], whose: gpus.Whose) -> str:
    """A sentence about the place under the cursor. ``column`` None: the line itself."""
    if row.node is None:
        return _anywhere(column, rows)
    name = clean(row.node["name"])
    gpu = (row.devices or {}).get(column) if column is not None else None
    if gpu is not None:
        facts = [f"{name} GPU {gpu['index']}", gpus.short_model(gpu["model"]), gpus.memory_of(gpu)]
        if gpu["numa"] is not None:
            facts.append(f"NUMA {gpu['numa']}")
        if not gpu["lost"]:
            facts += [gpus.percent(gpu["utilization"]), gpus.degrees(gpu["temperature"])]
        return " · ".join([*facts, gpus.who(gpu, whose) or "free"])
    if row.numa is not None:
        numbers = ", ".join(map(str, row.devices or ()))
        return f"{name} NUMA {row.numa['id']} · cores and memory there only" + (
            f" · GPU {numbers}" if numbers else " · no GPU"
        )
    state = "".join(text for text, _ in node_state(row.node))
    why = node_reason(row.node)
    found = gpus.devices(row.node)
    free = sum(gpus.held_by(each) is gpus.Held.FREE for each in found)
    facts = [name, f"{state}: {why}" if why else state, f"{format_cores(row.node['cores_free'])} cores free"]
    return " · ".join([*facts, f"{free} of {len(found)} GPUs free"] if found else facts)


def _anywhere(column: int | None, rows: Iterable[Row]) -> str:
    if column is None:
        return "anywhere: the scheduler picks the node"
    nodes = {row.node["name"]: row.node for row in rows if row.node}.values()
    able = [node for node in nodes if node["state"] == NodeState.ONLINE and not node["drained"]]
    now = sum(_free(node) >= column for node in able)
    gpu_word = f"{column} GPU{'s' * (column != 1)}"
    return (
        f"{gpu_word} anywhere: {now} node{'s' * (now != 1)} could give {'them' if column > 1 else 'it'} now"
    )


def _free(node: NodeView) -> int:
    return sum(gpus.held_by(gpu) is gpus.Held.FREE for gpu in gpus.devices(node))
