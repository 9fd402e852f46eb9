"""The terminal widget in front of somebody, with real programs on a pty behind it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.color import Color, ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Offset

from hakuriver.errors import Unreachable
from tests.tui.shells import Pty, Scripted, Shell, shell
from tests.tui.use import until
from tui.terminal.channel import Back, Ended, Event, Lost
from tui.terminal.messages import TerminalClosed, TerminalLeft
from tui.terminal.pump import State
from tui.themes import ansi_colors


def segment_at(used: Shell, x: int, y: int) -> Segment:
    strip = used.terminal.render_line(y)
    return next(iter(strip.crop(x, x + 1)))


def style_at(used: Shell, x: int, y: int) -> Style:
    style = segment_at(used, x, y).style
    assert style is not None
    return style


async def until_quiet(used: Shell, condition: Callable[[], object]) -> None:
    await until(condition, 10)
    await used.pilot.pause()


async def test_the_size_is_right_from_the_first_prompt_and_after_a_resize() -> None:
    async with shell(("busybox", "sh", "-c", "stty size; exec busybox sh")) as used:
        channel = used.app.channel
        assert isinstance(channel, Pty)
        await used.sees("24 80\n")
        assert used.app.started_at == (24, 80)
        await used.pilot.resize_terminal(61, 17)
        await until(lambda: channel.sizes[-1] == (16, 61))
        used.type("stty size\n")
        await used.sees("16 61\n")


async def test_a_shell() -> None:
    async with shell() as used:
        await used.sees("$")
        used.type("echo hé 世界 | tee /dev/null\n")
        await used.sees("\nhé 世界\n")
        used.type("echo gone; sleep 1000\n")
        await used.sees("\ngone\n")
        used.key("ctrl+c")
        await used.sees("^C")
        used.type("echo listening; cat\n")
        await used.sees("\nlistening\n")
        used.type("twice\n")
        await used.sees("twice\ntwice")
        used.key("ctrl+d")
        used.type("exit 3\n")
        await used.sees("ended with exit code 3 · enter closes it")
        assert used.terminal.state is State.ENDED and used.terminal.exit_code == 3
        used.key("enter")
        await until(lambda: used.app.heard == [TerminalClosed("shell")])


async def test_vi(tmp_path: Path) -> None:
    target = tmp_path / "notes"
    async with shell() as used:
        await used.sees("$")
        used.type(f"echo before; busybox vi {target}\n")
        await used.sees("~\n~\n~\n")
        assert "before" not in used.text and not used.text.startswith("$")
        used.type("ihello")
        await used.sees("hello\n~\n")
        used.key("left")
        used.key("escape")
        await used.sees("- /")  # no longer inserting
        used.type("x:wq\n")
        await used.sees("before\n$")
        assert target.read_text() == "helo\n"


async def test_a_megabyte_and_a_flood_that_is_interrupted() -> None:
    async with shell() as used:
        await used.sees("$")
        used.type("busybox seq -w 1 150000; echo done\n")
        await used.sees("150000\ndone\n")
        channel = used.app.channel
        assert isinstance(channel, Pty) and channel.received > 1_000_000
        used.type("busybox yes\n")
        await used.sees("y\ny\ny\ny\ny\n")
        used.key("ctrl+c")
        await used.sees("^C")
        used.type("echo still here\n")
        await used.sees("\nstill here\n")


async def test_history() -> None:
    async with shell() as used:
        await used.sees("$")
        used.type("busybox seq 1 100\n")
        await used.sees("99\n100\n")
        await used.press("shift+pageup")
        await used.sees("lines up")
        assert "\n70\n" in used.text and "100" not in used.text
        seen = used.lines[1:]
        used.terminal._pump.write(b"echo new\r")  # type: ignore[union-attr]
        await until_quiet(used, lambda: used.terminal._view.farthest > 79)  # type: ignore[union-attr]
        assert used.lines[1:] == seen, "it holds still while output arrives"
        await used.press("shift+pagedown", "shift+pagedown")
        await used.sees("\nnew\n")
        used.terminal.post_message(events.MouseScrollUp(used.terminal, 1, 1, 0, -1, 0, False, False, False))
        await used.sees("3 lines up")
        used.type("x")
        await used.sees("$ x")
        assert "lines up" not in used.text


async def test_the_release_key_leaves_and_twice_is_for_the_program() -> None:
    async with shell(("busybox", "sh", "-c", "stty -echo raw; echo up; exec busybox hexdump -C")) as used:
        await used.sees("up")
        await used.press("j", "ctrl+q")
        assert used.app.noted == [] and used.terminal.takes_keys
        used.key("ctrl+right_square_bracket")
        used.key("ctrl+right_square_bracket")
        used.type("0123456789abc")
        await used.sees("6a 11 1d 30")
        assert used.app.heard == []
        used.key("ctrl+right_square_bracket")
        await until(lambda: used.app.heard == [TerminalLeft("shell")])
        await used.press("j", "ctrl+q")
        assert set(used.app.noted) == {"j", "ctrl+q"} and used.terminal.state is State.CONNECTED


async def test_a_key_after_the_release_key_is_for_who_comes_next() -> None:
    channel = Scripted()
    async with shell(channel) as used:
        used.key("ctrl+right_square_bracket")
        used.type("j")
        await until(lambda: used.app.noted == ["j"])
        assert used.app.heard == [TerminalLeft("shell")] and channel.sent == b""


async def test_pastes_are_bracketed_for_programs_that_ask() -> None:
    channel = Scripted()
    async with shell(channel) as used:
        used.terminal.post_message(events.Paste("a\nb\x1b[201~"))
        await until(lambda: channel.sent == b"a\rb[201~")
        channel.says(b"\x1b[?2004h\x1b[?1hready")
        await used.sees("ready")
        used.terminal.post_message(events.Paste("c"))
        await until(lambda: channel.sent.endswith(b"\x1b[200~c\x1b[201~"))
        used.key("up")
        await until(lambda: channel.sent.endswith(b"\x1bOA"))


async def test_characters_cut_between_two_frames() -> None:
    channel = Scripted()
    async with shell(channel) as used:
        for byte in "\x1b[31m世界 é e\u0301 \x1b]0;título\x07✓".encode():
            channel.says(bytes([byte]))
        await used.sees("世界 é e\u0301 ✓")
        await until(lambda: used.terminal.window_title == "título")
        assert used.terminal.render_line(0).cell_length == 80


async def test_colours_reach_the_screen_and_control_bytes_do_not() -> None:
    channel = Scripted()
    async with shell(channel) as used:
        channel.says(
            b"\x1b[1;31mred\x1b[0m\x1b[48;5;200m256\x1b[48;2;1;2;3mtrue\x1b[0m plain"
            b"\x1b]52;c;aGk=\x07\x1b[5i\r\nok"
        )
        await used.sees("red256true plain\nok")
        assert style_at(used, 0, 0).bold and style_at(used, 0, 0).color is not None
        assert style_at(used, 0, 0).color.number == 1  # type: ignore[union-attr]
        assert style_at(used, 3, 0).bgcolor.number == 200  # type: ignore[union-attr]
        assert style_at(used, 6, 0).bgcolor.triplet == (1, 2, 3)  # type: ignore[union-attr]
        assert style_at(used, 12, 0).color == used.terminal.rich_style.color
        for y in range(24):
            assert not any(unicodedata.category(c) == "Cc" for c in used.terminal.render_line(y).text)


@pytest.mark.parametrize("sixteen", [True, False])
def test_sixteen_colours_are_sixteen(sixteen: bool) -> None:
    theme = ansi_colors(sixteen=sixteen)
    found = [Color.from_ansi(number).get_truecolor(theme) for number in range(16)]
    assert len(set(found)) == 16
    if sixteen:
        nearest = [Color.from_triplet(color).downgrade(ColorSystem.STANDARD).number for color in found]
        assert nearest == list(range(16))


async def test_the_cursor_is_there_only_with_the_focus() -> None:
    channel = Scripted()
    async with shell(channel) as used:
        channel.says(b"\x1b[?1004habc")
        await used.sees("abc")
        assert style_at(used, 3, 0).reverse
        used.app.set_focus(None)
        await until(lambda: channel.sent == b"\x1b[O")
        assert not style_at(used, 3, 0).reverse
        used.terminal.focus()
        await until(lambda: channel.sent == b"\x1b[O\x1b[I")
        assert style_at(used, 3, 0).reverse
        channel.says(b"\x1b[?25lx")
        await used.sees("abcx")
        assert not any(style_at(used, x, 0).reverse for x in range(6))


async def test_the_mouse_is_reported_to_programs_that_take_it() -> None:
    channel = Scripted()
    async with shell(channel) as used:
        await used.pilot.click("#shell", offset=Offset(4, 2))
        assert channel.sent == b""
        channel.says(b"\x1b[?1002h\x1b[?1006hready")
        await used.sees("ready")
        await used.pilot.mouse_down("#shell", offset=Offset(4, 2))
        await used.pilot.mouse_up("#shell", offset=Offset(6, 2))
        await until(lambda: channel.sent.endswith(b"m"))
        assert b"\x1b[<0;5;3M" in channel.sent and channel.sent.endswith(b"\x1b[<0;7;3m")
        used.terminal.post_message(events.MouseScrollDown(used.terminal, 1, 1, 0, 1, 0, False, False, False))
        await until(lambda: channel.sent.endswith(b"\x1b[<65;2;2M"))


async def test_a_program_that_takes_no_mouse_gets_the_wheel_as_arrows() -> None:
    channel = Scripted()
    async with shell(channel) as used:
        channel.says(b"\x1b[?1049hfull screen")
        await used.sees("full screen")
        used.terminal.post_message(events.MouseScrollDown(used.terminal, 1, 1, 0, 1, 0, False, False, False))
        await until(lambda: channel.sent == b"\x1b[B" * 3)
        used.key("shift+pageup")
        await until(lambda: channel.sent.endswith(b"\x1b[5;2~"))


async def test_a_connection_that_is_lost_and_found_again() -> None:
    channel = Scripted()
    async with shell(channel) as used:
        channel.says(b"old")
        await used.sees("old")
        channel.events.put_nowait(Lost("no route to host"))
        await used.sees("connection lost: no route to host · trying again · ^] leaves")
        assert style_at(used, 0, 0).dim and used.terminal.takes_keys
        used.type("lost")
        await used.pilot.resize_terminal(70, 20)
        await until(lambda: channel.sizes == [(19, 70)])
        channel.events.put_nowait(Back(redraw=True))
        channel.says(b"new")
        await used.sees("new")
        await until(lambda: channel.sizes == [(19, 70), (19, 70)])  # the first may have been lost
        assert "old" not in used.text and "trying" not in used.text and channel.sent == b""
        assert not style_at(used, 0, 0).dim
        used.type("x")
        await until(lambda: channel.sent == b"x")


class Breaking(Scripted):
    async def receive(self) -> Event:
        raise Unreachable("the host went away")


@pytest.mark.parametrize(
    "channel", [Unreachable("the host went away"), Breaking()], ids=["refused", "broken"]
)
async def test_errors_are_said_in_the_terminal(channel: Breaking | Unreachable) -> None:
    async with shell(channel) as used:
        await used.sees("ended: the host went away · enter closes it")
        assert used.terminal.exit_code is None and not used.terminal.takes_keys
        await used.press("j")
        assert used.app.noted == ["j"], "keys are the app's again"


async def test_what_follows_the_end_is_not_waited_for() -> None:
    channel = Scripted()
    async with shell(channel) as used:
        channel.says(b"last words")
        channel.events.put_nowait(Ended(0))
        await used.sees("last words\n ended with exit code 0")
        await until(lambda: channel.closed)


async def test_removing_it_lets_go_of_the_program() -> None:
    async with shell() as used:
        await used.sees("$")
        channel = used.app.channel
        assert isinstance(channel, Pty) and channel.pid
        await used.terminal.remove()
        await until(lambda: channel.closed)
        with pytest.raises(ProcessLookupError):
            os.kill(channel.pid, 0)
