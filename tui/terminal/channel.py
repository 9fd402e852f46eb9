"""What a terminal is connected to: a program somewhere, through anything that carries bytes both ways."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Output:
    """What the program wrote, cut anywhere."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone; whoever carries the bytes tries to get it back."""

    why: str


@dataclass(frozen=True, slots=True)
class Back:
    """It is there again, with the same program. ``redraw``: what follows draws the whole screen."""

    redraw: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The program ended (``code``), or can't be reached any more (``why``). Nothing follows."""

    code: int | None
    why: str = ""


Event = Output | Lost | Back | Ended


class Channel(Protocol):
    """A connection to one program. All but ``close`` may raise HakuRiverError: then it is over."""

    async def receive(self) -> Event:
        """What happens next. Nobody reads ahead of who asks: a program that writes too fast has to wait."""
        ...

    async def send(self, data: bytes) -> None: ...

    async def resize(self, rows: int, columns: int) -> None: ...

    async def close(self) -> None:
        """Let go of the program, whatever state the connection is in."""
        ...


Connect = Callable[[int, int], Awaitable[Channel]]
"""Start the program, or find it, on a terminal of so many rows and columns: it sees no other size first."""
