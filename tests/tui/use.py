"""Somebody at the keyboard of the program, on a real HTTP peer: keys in, text on the screen out."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from textual import events
from textual.keys import REPLACED_KEYS, _character_to_key, _get_unicode_name_from_key
from textual.pilot import Pilot

from tests.tui.peer import Peer, peer
from tui.app import HakuRiverApp
from tui.live import Link
from tui.widgets.table import AnyTable, Table

_ROUNDS = 3
"""A key goes from the app to a widget, whose action goes to a screen: each has a queue of its own."""


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something to become true; fails the test when it doesn't."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass
class Use:
    """One session."""

    app: HakuRiverApp
    pilot: Pilot[int]
    host: Peer

    @property
    def lines(self) -> list[str]:
        """What the terminal shows; nothing while a screen is so new that it has no size."""
        width, height = self.app.size
        strips = self.app.screen._compositor.render_strips()
        assert len(strips) in (0, height)
        return [strip.text[:width] for strip in strips]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def table(self) -> AnyTable:
        return self.app.screen.query_one(Table)

    async def press(self, *keys: str) -> None:
        """Keys by name, each as soon as the one before has been dealt with."""
        for key in keys:
            self._send(key)
            for _ in range(_ROUNDS):
                await self.pilot._wait_for_screen()
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        """Text at once, as a terminal sends what is pasted or typed ahead."""
        for character in text:
            self._send(_character_to_key(character))
        await self.press()
        for _ in range(_ROUNDS):
            await self.pilot._wait_for_screen()

    def _send(self, key: str) -> None:
        key = _character_to_key(key) if len(key) == 1 and not key.isalnum() else key
        try:
            character = unicodedata.lookup(_get_unicode_name_from_key(REPLACED_KEYS.get(key, key)))
        except KeyError:
            character = key if len(key) == 1 else ""
        event = events.Key(key, character or None)
        event.set_sender(self.app)
        assert self.app._driver is not None
        self.app._driver.send_message(event)

    def paste(self, text: str) -> None:
        """What a terminal with bracketed paste sends."""
        event = events.Paste(text)
        event.set_sender(self.app)
        assert self.app._driver is not None
        self.app._driver.send_message(event)

    async def sees(self, *texts: str) -> None:
        try:
            await until(lambda: all(text in self.text for text in texts))
        except TimeoutError:
            raise AssertionError(f"{texts} not on the screen:\n{self.text}") from None

    def sent(self, what: str) -> list[object]:
        return [body for _, path, body in self.host.seen if path.startswith(what)]


@asynccontextmanager
async def using(
    *views: object, size: tuple[int, int] = (100, 30), host: Peer | None = None
) -> AsyncIterator[Use]:
    """The program in front of somebody, with everything drawn that the host has."""
    async with peer() as made:
        made.put(*views)
        app = HakuRiverApp((host or made).endpoint)
        async with app.run_test(size=size) as pilot:
            use = Use(app, pilot, made)
            mirror = app.session.mirror
            await until(lambda: mirror.status.link is not Link.CONNECTING)
            await until(lambda: use.table.rows.all.keys() == mirror.tasks.keys())
            await use.sees("q quit")
            yield use
