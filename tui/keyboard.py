"""Keys one after the other: the next one is given on when nothing of the last one is under way.

Textual passes a key from queue to queue until somebody acts on it. What is typed or pasted faster than that
(all that waited in a slow connection comes at once) would reach whoever has the keyboard now, although an
earlier key gives it to somebody else: the rest of a filter would be taken for verbs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

from textual import events
from textual.message import Message
from textual.message_pump import MessagePump

Typed = events.Key | events.Paste
PATIENCE = 1.0
"""Seconds after which the next key goes on whatever became of the last: nothing may lock the keyboard."""


class KeyPassed(Message):
    """Follows a key through the same queues, so it comes back when the key has been acted on."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Keyboard:
    """Holds what is typed. ``give`` lets the application have an event, ``target`` is who gets keys now,
    ``moving`` says whether the keyboard is about to change hands, ``later`` calls back after seconds."""

    def __init__(
        self,
        give: Callable[[Typed], Awaitable[None]],
        target: Callable[[], MessagePump],
        moving: Callable[[], bool],
        later: Callable[[float, Callable[[], Awaitable[None]]], object],
    ) -> None:
        self._give = give
        self._target = target
        self._moving = moving
        self._later = later
        self._held: deque[Typed] = deque()
        self._given = 0  # events so far
        self._passed = 0  # the last of them that was acted on
        self._watched = -1  # the one for which patience ends

    async def typed(self, event: Typed) -> None:
        """The terminal sent something."""
        self._held.append(event)
        await self.go_on()

    async def passed(self, number: int) -> None:
        """The event of this number was acted on."""
        self._passed = max(self._passed, number)
        await self.go_on()

    async def go_on(self) -> None:
        """Give on what is held, as far as that is possible now."""
        while self._held and self._passed == self._given and not self._moving():
            await self._give_one()
        if self._held and self._watched != self._given:
            self._watched = self._given
            self._later(PATIENCE, partial(self._lose_patience, self._given))

    async def _give_one(self) -> None:
        target = self._target()
        self._given += 1
        number = self._given
        await self._give(self._held.popleft())
        if not target.post_message(KeyPassed(number)):
            self._passed = number

    async def _lose_patience(self, number: int) -> None:
        if self._held and self._given == number:
            self._passed = number
            await self._give_one()
            await self.go_on()
