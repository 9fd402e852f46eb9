"""Whatever is typed at once, or pasted by a slow connection, does what it does one key at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from textual.widgets import Input

from tests.tui.peer import node
from tests.tui.peer_environments import environment
from tests.tui.use import Use, until, using
from tui.keyboard import PATIENCE
from tui.screens.ask import AskForm
from tui.screens.environments import Environments
from tui.widgets.prompt import Prompt

LAB = [node("n1"), environment("torch"), environment("torchaudio"), environment("jax")]


async def burst(use: Use, keys: Sequence[str], seed: int) -> None:
    """Keys as a connection with hiccups brings them."""
    source = random.Random(seed)
    for key in keys:
        use._send(key)
        if source.random() < 0.3:
            await asyncio.sleep(source.choice((0, 0, 0.001, 0.005, 0.02)))  # the hiccup, not a wait


@pytest.mark.parametrize("seed", range(8))
async def test_a_filter_a_row_a_verb_and_its_note(seed: int) -> None:
    async with using(*LAB) as use:
        keys = ["4", "slash", *"torch", "enter", "j", "p", *"kpnso", "enter", "slash", *"jax", "escape"]
        await burst(use, keys, seed)
        await until(lambda: use.sent("env pack torchaudio") == [{"note": "kpnso"}])
        await until(lambda: not use.app.screen.query(Prompt))
        assert isinstance(use.app.screen, Environments) and len(use.sent("env")) == 1
        await use.sees("Environments 3")


@pytest.mark.parametrize("seed", range(4))
async def test_a_screen_that_opens_gets_what_follows(seed: int) -> None:
    async with using(*LAB) as use:
        await burst(use, ["4", "n", *"lab", "tab", *"pkq"], seed)
        await until(lambda: isinstance(use.app.screen, AskForm))
        await until(lambda: [each.value for each in use.app.screen.query(Input)][:2] == ["lab", "pkq"])


async def test_a_paste_waits_for_its_place() -> None:
    async with using(*LAB) as use:
        use._send("4")
        use._send("slash")
        use.paste("torcha")
        use._send("enter")
        await use.sees("1 of 3 · /torcha")


async def test_nothing_locks_the_keyboard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with using(*LAB) as use:
        await use.press("4")
        monkeypatch.setattr(Environments, "keyboard_moves", True)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        use._send("3")
        await until(lambda: not isinstance(use.app.screen, Environments))
        assert loop.time() - begun >= PATIENCE / 2
