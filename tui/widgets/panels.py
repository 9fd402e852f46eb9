"""Every node at a glance: what is allocated and what is really used, in panels or lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import events
from textual.binding import BindingType
from textual.strip import Strip

from hakuriver.units import format_size
from hakuriver.views import NodeView
from tui.actions import Scope, bindings
from tui.facts import held_cores, symbol, tone
from tui.messages import Chosen, Highlighted
from tui.plain import clean, fit
from tui.widgets.tones import Drawn, Piece, bar, differing, spread

_PANEL_WIDTH = 38
_LINE_WIDTH = 58
_NUMBERS = 14
_LEVELS = "▁▂▃▄▅▆▇█"


class NodePanels(Drawn, can_focus=True, inherit_bindings=False):
    """Nodes by name; one is selected. Its height is its own affair, up to ``most`` lines."""

    SCOPES: ClassVar[frozenset[Scope]] = frozenset({Scope.PANELS})
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Scope.PANELS)]

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.nodes: list[NodeView] = []
        self.selected: str | None = None
        self._lines: list[Strip] = []
        self._most = 10
        self._empty = ""

    def show(self, nodes: Iterable[NodeView], *, most: int, empty: str) -> None:
        """Draw these nodes in at most so many lines; ``empty`` stands there when there are none."""
        self.nodes = sorted(nodes, key=lambda node: node["name"])
        self._most, self._empty = most, empty
        names = [node["name"] for node in self.nodes]
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
        if not self.nodes:
            return [Strip.blank(width, self.rich_style), self.strip([(f"  {self._empty}", "muted")], width)]
        across = self._balanced(width // _PANEL_WIDTH)
        tall = 5 if any(node["gpus"] for node in self.nodes) else 4
        if -(-len(self.nodes) // across) * tall <= self._most:
            return self._grid([self._panel(node, w, tall) for node, w in self._shares(across, width)], across)
        across = self._balanced(width // _LINE_WIDTH)
        lines = self._grid([[self._row(node, w)] for node, w in self._shares(across, width)], across)
        place = next((i for i, node in enumerate(self.nodes) if node["name"] == self.selected), 0) // across
        first = max(0, min(place - self._most // 2, len(lines) - self._most))
        return lines[first : first + self._most]

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

    def _panel(self, node: NodeView, width: int, tall: int) -> list[Strip]:
        inner = width - 4
        here = node["name"] == self.selected and self.has_focus
        edge = "accent" if here else "muted"
        name = clean(node["name"])
        left: list[Piece] = [("╭─ ", edge), (name, "title"), (" ", edge)]
        right: list[Piece] = [(" ", edge), *self._state(node), (" ─╮", edge)]
        gap = max(0, width - sum(len(t) for t, _ in (*left, *right)))
        top = spread([*left, ("─" * gap, edge)], right, width)
        body = [self._cpu(node, inner), self._memory(node, inner)]
        if tall == 5:
            body.append(self._gpus(node, inner))
        foot = f" {node['tasks']} task{'s' * (node['tasks'] != 1)}{self._load(node)} "
        bottom: list[Piece] = [
            ("╰─", edge),
            (foot, "muted"),
            ("─" * max(0, width - len(foot) - 3), edge),
            ("╯", edge),
        ]
        lines = [top, *([("│ ", edge), *line, (" │", edge)] for line in body), bottom]
        return [self.strip(line, width) for line in lines]

    def _row(self, node: NodeView, width: int) -> Strip:
        here = node["name"] == self.selected and self.has_focus
        name = fit(clean(node["name"]), 12)
        room = width - 14 - 9
        half = room // 2
        pieces: list[Piece] = [("▌" if here else " ", "accent"), (symbol(node["state"]), self._tone(node))]
        pieces += [
            (f" {name} ", "title"),
            *self._cpu(node, half - 1),
            (" ", ""),
            *self._memory(node, room - half),
        ]
        pieces += [(fit(f"{node['tasks']} t", 6, right=True), "muted")]
        return self.strip(pieces, width)

    @staticmethod
    def _tone(node: NodeView) -> str:
        return "warn" if node["drained"] else tone(node["state"])

    def _state(self, node: NodeView) -> list[Piece]:
        text = "drained" if node["drained"] else clean(node["state"])
        return [(f"{symbol(node['state'])} {text}", self._tone(node))]

    @staticmethod
    def _load(node: NodeView) -> str:
        usage = node["usage"]
        if usage is None:
            return ""
        heat = f" · {usage['temperature']:.0f}°C" if usage["temperature"] else ""
        return f" · load {usage['load']:.2f}{heat}"

    @staticmethod
    def _meter(
        label: str, width: int, used: float | None, held: float, *, numbers: str, tone_name: str
    ) -> list[Piece]:
        meter = max(3, width - 4 - _NUMBERS)
        return [
            (f"{label} ", "muted"),
            *bar(meter, used, held, tone_name),
            (fit(numbers, width - 4 - meter, right=True), ""),
        ]

    def _cpu(self, node: NodeView, width: int) -> list[Piece]:
        usage = node["usage"] if node["state"] == "online" else None
        percent = f"{usage['cpu_percent']:.0f}%" if usage else "–"
        held = 1 - node["cores_free"] / node["cores"] if node["cores"] else 0.0
        numbers = f"{percent:>4} {held_cores(node):>7}"
        return self._meter(
            "cpu",
            width,
            usage["cpu_percent"] / 100 if usage else None,
            held,
            numbers=numbers,
            tone_name="accent",
        )

    def _memory(self, node: NodeView, width: int) -> list[Piece]:
        usage = node["usage"] if node["state"] == "online" else None
        total = node["memory"] or 1
        used = usage["memory_used"] / total if usage else None
        shown = format_size(usage["memory_used"]) if usage else "–"
        numbers = f"{shown:>4} of {format_size(node['memory']):>4}"
        tone_name = "bad" if (used or 0) > 0.95 else "warn" if (used or 0) > 0.85 else "info"
        return self._meter(
            "mem", width, used, 1 - node["memory_free"] / total, numbers=numbers, tone_name=tone_name
        )

    @staticmethod
    def _gpus(node: NodeView, width: int) -> list[Piece]:
        if not node["gpus"]:
            return [(fit("gpu –", width), "muted")]
        pieces: list[Piece] = [("gpu ", "muted")]
        room = width - 4 - _NUMBERS
        for gpu in node["gpus"][: max(1, room // 3)]:
            level = _LEVELS[min(7, int((gpu["utilization"] or 0) / 12.5))]
            holder = "good" if gpu["task"] is not None else "warn" if gpu["external"] else "muted"
            pieces.append((f"{gpu['index'] % 10}{level} ", holder))
        held = sum(gpu["task"] is not None for gpu in node["gpus"])
        return spread(pieces, [(f"{held}/{len(node['gpus'])} held", "")], width)

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
