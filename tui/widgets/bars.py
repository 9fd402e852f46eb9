"""The lines around every screen: header, banner of a lost connection, notice, footer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from textual.screen import Screen
from textual.strip import Strip

from hakuriver.lifecycle import ENDED, State
from tui.actions import available, shown_key
from tui.live import Link, Mirror
from tui.plain import clean, fit
from tui.widgets.tones import Drawn, Piece, differing, spread

VIEWS = (("1", "overview"), ("2", "nodes"), ("3", "tasks"), ("4", "environments"))
_NAMES_FROM = 116
_WAITING = (State.PENDING, State.ASSIGNED, State.PREPARING)
_WRONG = (State.FAILED, State.KILLED_OOM, State.TIMED_OUT, State.LOST)


def pane_title(name: str, facts: str, width: int) -> list[Piece]:
    """A rule with the name of what stands below."""
    facts = f" {facts} " if facts else " "
    return [
        ("── ", "muted"),
        (name, "title"),
        (facts, "muted"),
        ("─" * max(0, width - len(name) - len(facts) - 3), "muted"),
    ]


def tab_title(names: Sequence[str], current: int, facts: str, width: int) -> list[Piece]:
    """The same with a name for each tab; the one in front stands out, with the facts about it."""
    pieces: list[Piece] = [("── ", "muted")]
    for place, name in enumerate(names):
        pieces += [("│ ", "faint")] if place else []
        pieces.append((f"{name} ", "title" if place == current else "muted"))
        if place == current and facts:
            pieces.append((f"{facts} ", "muted"))
    hint = " [ ] ──"
    line = "─" * max(0, width - sum(len(text) for text, _ in pieces) - len(hint))
    return [*pieces, (f"{line}{hint}", "muted")]


class Lines(Drawn):
    """A widget of whole lines that are put into it, at any time: before it is mounted they wait."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._pieces: list[list[Piece]] = []
        self._strips: list[Strip] = []

    def put(self, *lines: list[Piece]) -> None:
        """Show these lines; the widget is as high as there are."""
        self._pieces = list(lines)
        if not self.is_attached:
            return
        self.display = bool(lines)
        if lines:
            self.styles.height = len(lines)
        self._draw()

    def on_mount(self) -> None:
        self.put(*self._pieces)

    def on_resize(self) -> None:
        self._strips = []
        self._draw()

    def _draw(self) -> None:
        width = self.size.width
        new = [self.strip(pieces, width) for pieces in self._pieces]
        old, self._strips = self._strips, new
        if regions := differing(old, new, width):
            self.refresh(*regions)

    def render_line(self, y: int) -> Strip:
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)


class Header(Lines):
    """Which cluster, how the connection stands, which view, how much of everything."""

    def show(self, mirror: Mirror, label: str, view: str, *, frozen: bool) -> None:
        width = self.size.width or self.app.size.width
        link = mirror.status.link
        dot, tone = {Link.LIVE: ("●", "good"), Link.LOST: ("▲", "bad"), Link.CONNECTING: ("◌", "wait")}[link]
        state: list[Piece] = [(f" {dot} {link} ", tone)]
        if frozen:
            state.append((" FROZEN ", "mark"))
        tabs: list[Piece] = []
        for key, name in VIEWS:
            tabs.append(
                (
                    f" {key} {name} " if width >= _NAMES_FROM else f" {key} ",
                    "cursor" if name == view else "muted",
                )
            )
        counts = self._counts(mirror) if link is not Link.CONNECTING else []
        brand: list[Piece] = [(" HakuRiver ", "title")]
        rest = sum(len(t) for t, _ in (*brand, *tabs, *state, *counts))
        name = clean(label)
        room = max(6, width - rest - 2)
        if len(name) > room:
            path = name.removeprefix("local (").removesuffix(")")
            name = path if len(path) <= room else "…" + path[-(room - 1) :]
        self.put(spread([*brand, *tabs, (f" {name}", "muted"), *state], counts, width))

    @staticmethod
    def _counts(mirror: Mirror) -> list[Piece]:
        states = mirror.task_states
        online = sum(node["state"] == "online" for node in mirror.nodes.values())
        nodes = len(mirror.nodes)
        waiting, wrong = (sum(states[state] for state in group) for group in (_WAITING, _WRONG))
        live = sum(count for state, count in states.items() if state not in ENDED)
        drained = sum(node["drained"] for node in mirror.nodes.values())
        pieces: list[Piece] = [(f" {online}/{nodes} nodes ", "" if online == nodes else "bad")]
        if drained:
            pieces.append((f"◇ {drained} ", "warn"))
        pieces.append((f" ● {live - waiting} ", "good" if live > waiting else "muted"))
        pieces.append((f" ◌ {waiting} ", "wait" if waiting else "muted"))
        pieces.append((f" ✗ {wrong} ", "bad" if wrong else "muted"))
        return pieces


class Banner(Lines):
    """Says that what stands below is old, why, and when we try again. Gone while the connection lives."""

    def show(self, mirror: Mirror, where: str) -> None:
        status, width = mirror.status, self.size.width or self.app.size.width
        if status.link is not Link.LOST:
            self.put()
            return
        now = time.monotonic()
        left = max(0, round((status.retry_at or now) - now))
        what = "no connection" if not status.ever_live else "connection lost"
        since = f" {int(now - status.since)} s ago" if status.ever_live else ""
        first: list[Piece] = [(f" ▲ {what}{since}: {clean(status.error)}", "bad")]
        again: list[Piece] = [(f"again in {left} s  ", "bad"), ("^r", "title"), (" now ", "bad")]
        advice = clean(status.hint) or (
            "what you see is from before"
            if status.ever_live
            else f"is a host running at {where}? hakuriver up starts one here"
        )
        self.put(spread(first, again, width), [(fit(f"   {advice}", width), "muted")])


class Notice(Lines):
    """One line for what just happened, or what is about to."""

    def say(self, text: str, tone: str = "") -> None:
        if text:
            self.put([(f" {clean(text)}", tone)])
        else:
            self.put()


class Footer(Lines):
    """The most useful keys here and now, from the action table."""

    def show_typing(self, keys: Sequence[tuple[str, str]]) -> None:
        """While somebody types, other keys are text."""
        self.put([piece for key, does in keys for piece in ((f" {key}", "accent"), (f" {does} ", "muted"))])

    def show(self, screen: Screen[Any], *, note: str = "") -> None:
        """``note``: what stands at the right end, as far as a third of the line goes."""
        whole = self.size.width or self.app.size.width
        told = fit(f"{clean(note)} ", min(len(note) + 1, whole // 3)) if note else ""
        width = whole - len(told)
        shown = sorted((action for action, _ in available(screen) if action.footer), key=lambda a: a.footer)
        pieces: list[Piece] = []
        used = 0
        keep = [a for a in shown if a.footer >= 90]
        reserve = sum(len(a.label) + len(shown_key(a.keys[0])) + 3 for a in keep)
        for action in shown:
            key = shown_key(action.keys[0])
            cells = len(key) + len(action.label) + 3
            if action in keep:
                reserve -= cells
            if used + cells + reserve > width:
                continue
            pieces += [(f" {key}", "accent"), (f" {action.label} ", "muted")]
            used += cells
        self.put(spread(pieces, [(told, "info")], whole) if told else pieces)
