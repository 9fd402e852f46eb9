"""Every node at a glance: what is allocated and what is really used, in panels or lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from textual import events
from textual.binding import BindingType
from textual.strip import Strip

from hakuriver.views import NodeView, TaskView
from tui.actions import Scope, bindings
from tui.facts import node_reason, node_state, node_symbol
from tui.gpus import Whose, devices
from tui.messages import Chosen, Highlighted, NodeAsked
from tui.plain import clean, fit
from tui.widgets import meters
from tui.widgets.tones import Drawn, Piece, differing, spread

_PANEL_WIDTH = 38
_TALL_WIDTH = 52
_LINE_WIDTH = 58
_EDGES = {"warn": "warn", "bad": "bad"}
"""Panels of nodes that need a look have an edge of that tone."""


@dataclass(frozen=True, slots=True)
class _Known:
    """Lines of a node, and what they were drawn of."""

    node: NodeView
    held: list[TaskView | None]
    looks: tuple[object, ...]
    strips: list[Strip]


class NodePanels(Drawn, can_focus=True, inherit_bindings=False):
    """Nodes by name; one is selected. Its height is its own affair, up to ``most`` lines."""

    SCOPES: ClassVar[frozenset[Scope]] = frozenset({Scope.PANELS})
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.PANELS)]

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.nodes: list[NodeView] = []
        self.selected: str | None = None
        self._lines: list[Strip] = []
        self._known: dict[str, _Known] = {}
        self._most = 10
        self._empty = ""
        self._whose: Whose = lambda _: None

    def show(self, nodes: Iterable[NodeView], whose: Whose, *, most: int, empty: str) -> None:
        """Draw these nodes in at most so many lines; ``empty`` stands there when there are none."""
        self._whose = whose
        self.nodes = sorted(nodes, key=lambda node: node["name"])
        self._most, self._empty = most, empty
        names = [node["name"] for node in self.nodes]
        self._known = {name: known for name, known in self._known.items() if name in names}
        if self.selected not in names:
            self.selected = names[0] if names else None
        self._lay_out()

    def on_resize(self) -> None:
        self._lines = []
        self._lay_out()

    def on_focus(self) -> None:
        self._lay_out()

    def on_blur(self) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        width = self.size.width
        if width <= 0:
            return
        old, self._lines = self._lines, self._blocks(width)
        self.styles.height = len(self._lines)
        if regions := differing(old, self._lines, width):
            self.refresh(*regions)

    def _blocks(self, width: int) -> list[Strip]:
        """The most telling form that fits: a line for each GPU, panels, or a line for each node."""
        if not self.nodes:
            return [Strip.blank(width, self.rich_style), self.strip([(f"  {self._empty}", "muted")], width)]
        for least, each_gpu in ((_TALL_WIDTH, True), (_PANEL_WIDTH, False)):
            across = self._balanced(width // least)
            heights = [4 + self._gpu_lines(node, each=each_gpu) for node in self.nodes]
            rows = [max(heights[at : at + across]) for at in range(0, len(heights), across)]
            if sum(rows) <= self._most:
                shares = enumerate(self._shares(across, width))
                return self._grid(
                    [
                        self._drawn(node, w, partial(self._panel, tall=rows[i // across], each_gpu=each_gpu))
                        for i, (node, w) in shares
                    ],
                    across,
                )
        across = self._balanced(width // _LINE_WIDTH)
        cells = min(16 if width // across >= 100 else 8, max(len(devices(each)) for each in self.nodes))
        row = partial(self._row, cells=cells)
        lines = self._grid([self._drawn(node, w, row) for node, w in self._shares(across, width)], across)
        place = next((i for i, node in enumerate(self.nodes) if node["name"] == self.selected), 0) // across
        first = max(0, min(place - self._most // 2, len(lines) - self._most))
        return lines[first : first + self._most]

    def _drawn(self, node: NodeView, width: int, draw: partial[list[Strip]]) -> list[Strip]:
        """A node's lines; those of one that is as it was are here already."""
        held = [self._whose(gpu["task"]) for gpu in node["gpus"] if gpu["task"] is not None]
        here = node["name"] == self.selected and self.has_focus
        looks = (width, draw.func, draw.keywords, here, self.app.theme)
        known = self._known.get(node["name"])
        if known is not None and known.node is node and known.looks == looks and known.held == held:
            return known.strips
        strips = draw(node, width)
        self._known[node["name"]] = _Known(node, held, looks, strips)
        return strips

    def _gpu_lines(self, node: NodeView, *, each: bool) -> int:
        found = len(devices(node))
        return found if each else bool(found)

    def _balanced(self, most: int) -> int:
        """How many side by side, so that the rows are as even as they can be."""
        count = len(self.nodes)
        rows = -(-count // max(1, min(count, most)))
        return -(-count // rows)

    def _shares(self, across: int, width: int) -> list[tuple[NodeView, int]]:
        """Each node with its part of the width; what doesn't divide goes to the last column."""
        share = width // across
        return [
            (node, share if (i + 1) % across else width - share * (across - 1))
            for i, node in enumerate(self.nodes)
        ]

    def _grid(self, blocks: list[list[Strip]], across: int) -> list[Strip]:
        lines: list[Strip] = []
        for start in range(0, len(blocks), across):
            row = blocks[start : start + across]
            lines += [
                Strip.join([block[y] for block in row]).adjust_cell_length(self.size.width, self.rich_style)
                for y in range(len(row[0]))
            ]
        return lines

    def _panel(self, node: NodeView, width: int, *, tall: int, each_gpu: bool) -> list[Strip]:
        inner = width - 4
        here = node["name"] == self.selected and self.has_focus
        edge = "accent" if here else _EDGES.get(node_symbol(node)[1], "muted")
        left: list[Piece] = [("╭─ ", edge), (clean(node["name"]), "title"), (" ", edge)]
        right: list[Piece] = [(" ", edge), *node_state(node), (" ─╮", edge)]
        gap = max(0, width - sum(len(t) for t, _ in (*left, *right)))
        top = spread([*left, ("─" * gap, edge)], right, width)
        body = [meters.cpu(node, inner), meters.memory(node, inner)]
        if each_gpu:
            body += [meters.gpu_line(gpu, self._whose, inner) for gpu in devices(node)]
        elif tall > 4:
            body.append(meters.gpu_strip(node, inner))
        body += [[(" " * inner, "")]] * (tall - 2 - len(body))
        foot = f" {fit(self._foot(node), min(width - 6, len(self._foot(node))))} "
        bottom: list[Piece] = [
            ("╰─", edge),
            (foot, edge if edge in _EDGES.values() else "muted"),
            ("─" * max(0, width - len(foot) - 3), edge),
            ("╯", edge),
        ]
        lines = [top, *([("│ ", edge), *line, (" │", edge)] for line in body), bottom]
        return [self.strip(line, width) for line in lines]

    @staticmethod
    def _foot(node: NodeView) -> str:
        count = f"{node['tasks']} task{'s' * (node['tasks'] != 1)}"
        if why := node_reason(node):
            return f"{count} · {why}"
        usage = node["usage"]
        if usage is None:
            return count
        heat = f" · {usage['temperature']:.0f}°C" if usage["temperature"] else ""
        return f"{count} · load {usage['load']:.2f}{heat}"

    def _row(self, node: NodeView, width: int, *, cells: int) -> list[Strip]:
        here = node["name"] == self.selected and self.has_focus
        sign, colour = node_symbol(node)
        room = width - 22 - (cells + 1 if cells else 0)
        half = room // 2
        pieces: list[Piece] = [("▌" if here else " ", "accent"), (sign, colour)]
        pieces += [(f" {fit(clean(node['name']), 12)} ", "title" if colour == "good" else colour)]
        pieces += [*meters.cpu(node, half - 1), (" ", "")]
        if colour == "good":
            pieces += meters.memory(node, room - half)
        else:
            words = "".join(text for text, _ in node_state(node)).removeprefix(sign).strip()
            why = node_reason(node)
            pieces.append((fit(f"{words}: {why}" if why else words, room - half), colour))
        if cells:
            pieces += [(" ", ""), *meters.gpu_cells(node, cells)]
        return [self.strip([*pieces, (fit(f"{node['tasks']} t", 6, right=True), "muted")], width)]

    def _select(self, step: int) -> None:
        names = [node["name"] for node in self.nodes]
        if not names:
            return
        place = names.index(self.selected) if self.selected in names else 0
        self.selected = names[(place + step) % len(names)]
        self._lay_out()
        self.post_message(Highlighted(self.id or "", self.selected))

    def on_click(self, _: events.Click) -> None:
        self.focus()

    def render_line(self, y: int) -> Strip:
        return self._lines[y] if y < len(self._lines) else Strip.blank(self.size.width, self.rich_style)

    def action_panel_next(self) -> None:
        self._select(1)

    def action_panel_previous(self) -> None:
        self._select(-1)

    def action_panel_choose(self) -> None:
        if self.selected is not None:
            self.post_message(Chosen(self.id or "", self.selected))

    def action_panel_open(self) -> None:
        if self.selected is not None:
            self.post_message(NodeAsked(self.selected))
