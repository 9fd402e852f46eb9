"""One node in full: its meters, its NUMA nodes, and a line for each GPU."""

from __future__ import annotations

import itertools

from hakuriver.views import GpuView, NodeView, NumaView
from tui.facts import node_reason, node_symbol
from tui.gpus import Whose, devices
from tui.plain import clean, fit
from tui.widgets import meters
from tui.widgets.bars import Lines
from tui.widgets.tones import Piece

_BESIDE_FROM = 150
"""Cells from which NUMA nodes stand side by side."""
_Block = list[list[Piece]]


class NodeCard(Lines):
    """Redrawn whole; only lines that differ are painted."""

    def show(self, node: NodeView | None, whose: Whose, *, most: int, facts: bool = False) -> None:
        """At most so many lines; ``facts``: with what the machine is."""
        width = self.size.width or self.app.size.width
        if node is None:
            self.put()
            return
        lines = [*_head(node, width), *(_facts(node, width) if facts else []), *_gpus(node, whose, width)]
        if len(lines) > most:
            hidden = len(lines) - most + 1
            lines = [*lines[: most - 1], [(f"   … {hidden} more lines: enter shows all", "muted")]]
        self.put(*lines)


def _head(node: NodeView, width: int) -> _Block:
    half = (width - 4) // 2
    lines: _Block = [
        [(" ", ""), *meters.cpu(node, half), ("  ", ""), *meters.memory(node, width - half - 4)],
    ]
    if why := node_reason(node):
        what = "drained" if node["drained"] else clean(node["state"])
        lines.insert(0, [(fit(f" {node_symbol(node)[0]} {what}: {why}", width), node_symbol(node)[1])])
    return lines


def _facts(node: NodeView, width: int) -> _Block:
    cpu = node["cpu"]
    machine = ""
    if cpu is not None:
        sockets = f"{cpu['sockets']} socket{'s' * (cpu['sockets'] != 1)}"
        machine = f"{cpu['model']} · {sockets}, {cpu['cores']} cores, {cpu['threads']} threads"
    usage = node["usage"]
    load = f"load {usage['load']:.2f}" if usage else ""
    heat = f"{usage['temperature']:.0f}°C" if usage and usage["temperature"] else ""
    versions = node["engines"]
    engines = " · ".join(f"{name} {versions.get(name, '')}".strip() for name in node["executors"])
    labels = " ".join(f"{key}={value}" for key, value in sorted(node["labels"].items()))
    missing = "; ".join(f"{name}: {why}" for name, why in sorted(node["unavailable"].items()))
    texts = (
        ("machine", " · ".join(filter(None, (machine, load, heat)))),
        ("address", f"{node['address']} · version {node['version']}"),
        ("runs", engines),
        ("labels", labels),
        ("can't", missing),
    )
    return [
        [(f" {label:>8}  ", "muted"), (fit(clean(text), width - 11), "")] for label, text in texts if text
    ]


def _gpus(node: NodeView, whose: Whose, width: int) -> _Block:
    blocks = _blocks(node)
    beside = width >= _BESIDE_FROM
    if beside and len(blocks) == 1 and len(blocks[0][1]) > 2:
        numa, found = blocks[0]
        half = -(-len(found) // 2)
        blocks = [(numa, found[:half]), (None, found[half:])]
    across = 2 if beside and len(blocks) > 1 else 1
    share = width // across - (1 if across > 1 else 0)
    drawn: list[_Block] = []
    for numa, found in blocks:
        head = [meters.numa_line(numa, share)] if numa is not None else []
        drawn.append([*head, *(meters.gpu_line(gpu, whose, share) for gpu in found)])
    lines: _Block = []
    for at in range(0, len(drawn), across):
        for row in itertools.zip_longest(*drawn[at : at + across], fillvalue=[(" " * share, "")]):
            lines.append([piece for part in row for piece in (*part, (" ", ""))])
    return lines


def _blocks(node: NodeView) -> list[tuple[NumaView | None, list[GpuView]]]:
    """GPUs by NUMA node; where there is only one, it needs no line of its own."""
    found = devices(node)
    if len(node["numa"]) < 2:
        return [(None, found)] if found else []
    known = {numa["id"] for numa in node["numa"]}
    blocks: list[tuple[NumaView | None, list[GpuView]]] = [
        (numa, [gpu for gpu in found if gpu["numa"] == numa["id"]]) for numa in node["numa"]
    ]
    elsewhere = [gpu for gpu in found if gpu["numa"] not in known]
    return [*blocks, (None, elsewhere)] if elsewhere else blocks
