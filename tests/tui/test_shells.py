"""Shells beside the panels: on the host's WebSocket, with the keyboard to themselves while they have it."""

from __future__ import annotations

from tests.tui.peer import node, running
from tests.tui.peer_environments import environment, work
from tests.tui.use import Use, until, using
from tui.screens.confirm import Confirm
from tui.screens.environments import Environments
from tui.screens.overview import Overview
from tui.terminal.widget import Terminal

LAB = [node("n1"), environment("bare"), environment("torch"), running(1)]
RELEASE = "ctrl+right_square_bracket"


def terminal(use: Use) -> Terminal:
    found = use.app.focused
    assert isinstance(found, Terminal), found
    return found


async def opened(use: Use) -> None:
    """A shell in the first environment, ready to be typed in."""
    await use.press("4", "g", "s")
    await until(lambda: isinstance(use.app.focused, Terminal))
    await use.sees("Shell in bare", "$ ")


async def left(use: Use) -> None:
    await use.press(RELEASE)
    await until(lambda: not isinstance(use.app.focused, Terminal))


async def test_a_shell_below_the_list_which_stays_alive() -> None:
    async with using(*LAB, size=(100, 30)) as use:
        await opened(use)
        await use.type("stty size")
        await use.press("enter")
        height = terminal(use).size.height
        await use.sees(f"{height} 100", "connected", "^] leaves, it goes on")
        assert use.sent("env shell bare")
        use.host.put({**environment("torch"), "work": work("packing", 1, 4)})
        await use.sees("packing", "━━")
        await use.type("echo one:1 q 4 x? @ /; cat")
        await use.press("enter")
        await use.sees("\none:1 q 4 x? @ /")
        await use.press("ctrl+q", "ctrl+p")
        await use.sees("^P")
        assert isinstance(use.app.screen, Environments) and use.app.is_running
        await use.press("ctrl+c")
        await use.type("exit 3")
        await use.press("enter")
        await use.sees("the shell in bare ended with exit code 3")
        await until(lambda: use.app.focused is use.table)
        assert not use.app.screen.query(Terminal)


async def test_leaving_and_coming_back() -> None:
    async with using(*LAB, size=(100, 30)) as use:
        await opened(use)
        await use.type("A=kept")
        await use.press("enter")
        await left(use)
        await use.sees("shells: bare", "n new")
        before = use.app.screen.query_one(Terminal).size.height
        await use.press("plus")
        await until(lambda: use.app.screen.query_one(Terminal).size.height > before)
        await use.press("underscore", "underscore")
        await until(lambda: use.app.screen.query_one(Terminal).size.height < before)
        await use.press("escape")
        await until(lambda: "Shell in bare" not in use.text)
        await use.press("1")
        await use.sees("shells: bare")
        assert isinstance(use.app.screen, Overview)
        await use.press("4", "g", "s")
        await until(lambda: isinstance(use.app.focused, Terminal))
        await use.type("echo it is $A")
        await use.press("enter")
        await use.sees("it is kept")
        assert len(use.sent("env shell")) == 1
        await left(use)
        await use.press("at")
        await use.sees("hakuriver env shell bare")


async def test_several_shells_are_tabs_and_one_can_be_hung_up() -> None:
    async with using(*LAB, size=(100, 30)) as use:
        await opened(use)
        await use.type("echo I am ba''re")
        await use.press("enter")
        await use.sees("I am bare")
        await left(use)
        await use.press("G", "enter", "s")  # also from the screen of one environment
        await use.sees("Shells in bare │ torch")
        assert isinstance(use.app.screen, Environments)
        await until(lambda: isinstance(use.app.focused, Terminal))
        await left(use)
        await use.sees("shells: bare torch")
        assert "I am bare" not in use.text
        await use.press("right_square_bracket")
        await use.sees("I am bare")
        await use.press("x")
        await use.sees("End the shell in bare?")
        await use.press("y")
        await use.sees("the shell in bare is hung up", "Shell in torch")
        await until(lambda: next(iter(use.host.shells.values())).pty.closed)
        await use.press("ctrl+q")
        await use.sees("Quit?", "the shell in torch ends")
        await use.press("escape")


async def test_a_broken_connection_heals_and_says_so() -> None:
    async with using(*LAB, size=(100, 30)) as use:
        await opened(use)
        await use.type("echo before")
        await use.press("enter")
        await use.sees("before")
        (first,) = use.host.sockets
        states: set[str] = set()

        def back() -> bool:
            states.add(terminal(use).state)
            return use.host.sockets not in ([], [first])

        await first.close(1011)
        await until(back)
        await until(lambda: terminal(use).state == "connected")
        assert "reconnecting" in states
        await use.type("echo after")
        await use.press("enter")
        await use.sees("\nafter ", "\nbefore ")
        assert len(use.sent("env shell")) == 1


async def test_a_stopped_container_is_started_only_when_somebody_says_so() -> None:
    stopped, missing = environment("bare", container="stopped"), environment("torch", container="missing")
    async with using(node("n1"), stopped, missing, size=(100, 30)) as use:
        await use.press("4", "g", "s")
        await use.sees("The container of bare is stopped. Start it on http")
        await use.press("enter")
        assert not isinstance(use.app.screen, Confirm) and not use.sent("env")
        await use.press("s", "y")
        await use.sees("Shell in bare", "$ ")
        assert use.sent("env start bare")
        await left(use)
        await use.press("G", "S")
        await use.sees("torch has no container")


async def test_the_whole_terminal_is_the_same_where_there_is_none_to_give() -> None:
    async with using(*LAB) as use:
        await use.press("4", "g", "S")
        await use.sees("Shell in bare", "$ ")
