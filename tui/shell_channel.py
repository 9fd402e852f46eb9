"""A shell in an environment's container, as a terminal wants it: output, and how the connection stands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hakuriver.errors import HakuRiverError
from tui.terminal.channel import Back, Ended, Event, Lost, Output

if TYPE_CHECKING:
    from hakuriver.terminal import Session, Where

_TERMINAL = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
"""What our emulators are, whatever terminal the program itself runs on."""


class ShellChannel:
    """Made by ``open_shell``. A session that is lost for a while loses nothing: nothing is drawn again."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def receive(self) -> Event:
        """What happens next; output is taken only when it is asked for."""
        from hakuriver import terminal

        try:
            event = await self._session.receive()
        except HakuRiverError as error:
            return Ended(None, error.message)
        match event:
            case terminal.Output(data=data):
                return Output(data)
            case terminal.Lost(why=why):
                return Lost(why)
            case terminal.Back():
                return Back(redraw=False)
            case terminal.Ended(code=code):
                return Ended(code)

    async def send(self, data: bytes) -> None:
        await self._session.send(data)

    async def resize(self, rows: int, columns: int) -> None:
        self._session.resize(rows, columns)

    async def close(self) -> None:
        """Hang up: what runs there is ended."""
        await self._session.close()


async def open_shell(where: Where, environment: str, rows: int, columns: int) -> ShellChannel:
    """The best shell of an environment's container; raises HakuRiverError."""
    from hakuriver.terminal import Opening, Session

    session = Session(where, environment, Opening(tty=True, rows=rows, cols=columns, env=_TERMINAL))
    try:
        await session.start()
    except (HakuRiverError, asyncio.CancelledError):
        await session.close()
        raise
    return ShellChannel(session)
