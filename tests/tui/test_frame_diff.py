"""What the differ sends makes the same screen as sending everything, and costs less."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.screen import Screen
from textual.strip import Strip

from tests.tui.peer import node, peer, running, task
from tests.tui.terminal import Terminal
from tests.tui.use import Use, until
from tui.app import HakuRiverApp
from tui.display.frame_diff import SUPPORTED, Grid, _Diffed, placed

WIDTH, HEIGHT = 12, 3
STYLES = [None, Style(color="red"), Style(bold=True, bgcolor="blue"), Style(link="http://x")]
PIECE = st.tuples(st.text("ab 世é\u0301", min_size=1, max_size=6), st.sampled_from(STYLES))


@st.composite
def strips(draw: st.DrawFn) -> tuple[int, int, Strip]:
    x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    pieces = draw(st.lists(PIECE, min_size=1, max_size=4))
    first, style = pieces[0]
    pieces[0] = ("a" + first, style)  # a combining mark has nothing to stand on at the start of a strip
    strip = Strip([Segment(text, style) for text, style in pieces])
    return x, y, strip.crop(0, WIDTH - x)


@given(st.lists(strips(), max_size=12))
@settings(max_examples=300)
def test_replay_is_exact(frames: list[tuple[int, int, Strip]]) -> None:
    grid, diffed, full = Grid(WIDTH, HEIGHT), Terminal(WIDTH, HEIGHT), Terminal(WIDTH, HEIGHT)
    blank = Strip.blank(WIDTH)
    console = Console(color_system="truecolor", force_terminal=True)
    for x, y, strip in [*((0, y, blank) for y in range(HEIGHT)), *frames]:
        diffed.feed(grid.write(x, y, strip, ColorSystem.TRUECOLOR))
        full.feed(f"\x1b[{y + 1};{x + 1}H{Strip(list(strip)).render(console)}")
        assert diffed.cells == full.cells


def test_an_unchanged_frame_costs_nothing() -> None:
    grid = Grid(20, 1)
    strip = Strip([Segment("hello ", Style(bold=True)), Segment("world 世界  ")])
    assert grid.write(0, 0, strip, ColorSystem.TRUECOLOR)
    assert grid.write(0, 0, Strip(list(strip)), ColorSystem.TRUECOLOR) == ""
    changed = Strip([Segment("hello ", Style(bold=True)), Segment("w0rld 世界  ")])
    assert grid.write(0, 0, changed, ColorSystem.TRUECOLOR) == "\x1b[1;8H0"
    grid.forget()
    assert "hello" in grid.write(0, 0, changed, ColorSystem.TRUECOLOR)


class Recorded(HakuRiverApp):
    """Sends every frame to two terminals: whole, and through the differ."""

    def record(self, width: int, height: int) -> None:
        self.full, self.diffed = Terminal(width, height), Terminal(width, height)
        self.grid = Grid(width, height)
        self.sent = {"full": 0, "diffed": 0}

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        if isinstance(renderable, CompositorUpdate) and not self._batch_count:
            console = self.console
            whole = renderable.render_segments(console)
            less = _Diffed(renderable, self.grid, self._give_up).render_segments(console)
            self.full.feed(whole)
            self.diffed.feed(less)
            self.sent["full"] += len(whole)
            self.sent["diffed"] += len(less)
        super()._display(screen, renderable)


async def test_a_session_replayed() -> None:
    assert SUPPORTED
    async with peer() as host:
        host.put(
            node("n1"), node("n2"), *(running(i, command=["echo", "世界", str(i)]) for i in range(1, 40))
        )
        app = Recorded(host.endpoint)
        app.record(100, 30)
        async with app.run_test(size=(100, 30)) as pilot:
            await until(lambda: len(app.session.mirror.tasks) == 39)
            use = Use(app, pilot, host)
            for key in [
                "j",
                "j",
                "3",
                "G",
                "ctrl+u",
                "slash",
                "e",
                "escape",
                "question_mark",
                "j",
                "escape",
                "2",
                "1",
            ]:
                await use.press(key)
                assert app.diffed.cells == app.full.cells, key
            host.put(task(40, state="failed"), node("n2", state="unreachable"))
            await until(lambda: any("▲ unreachable" in line for line in app.full.lines))
            assert app.diffed.cells == app.full.cells
            assert app.sent["diffed"] < app.sent["full"] / 2


def test_only_updates_that_we_know_are_touched() -> None:
    assert list(placed(object())) == []
    assert {LayoutUpdate, ChopsUpdate} <= set(CompositorUpdate.__subclasses__())
