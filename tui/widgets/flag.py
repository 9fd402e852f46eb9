"""A box to tick, in one line."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.strip import Strip

from tui.messages import Ticked
from tui.plain import fit
from tui.widgets.tones import Drawn


class Flag(Drawn, can_focus=True):
    """``ticked`` or not; ``words`` say what it means."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("space", "toggle_tick", show=False)]

    def __init__(self, words: str, *, id: str, ticked: bool = False) -> None:
        super().__init__(id=id)
        self.ticked = ticked
        self._words = words

    def put(self, *, ticked: bool) -> None:
        if ticked != self.ticked:
            self.ticked = ticked
            self.refresh()

    def render_line(self, y: int) -> Strip:
        del y
        box = "[■]" if self.ticked else "[ ]"
        words = (fit(self._words, self.size.width - 4), "" if self.ticked else "muted")
        return self.strip([(box, "accent" if self.ticked else "muted"), (" ", ""), words], self.size.width)

    def on_click(self, _: events.Click) -> None:
        self.action_toggle_tick()

    def action_toggle_tick(self) -> None:
        self.put(ticked=not self.ticked)
        self.post_message(Ticked(self.id or ""))
