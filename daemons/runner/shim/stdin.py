"""The standard input of a task: bytes by offset, so that a piece whose answer was lost is not doubled."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
from typing import Any

CAPACITY = 2**20  # bytes on their way to a task that is slower than its source; as much as any user may have


class Stdin:
    """The write end of the task's standard input, None where there is none (any more)."""

    def __init__(self, pipe: int | None) -> None:
        self._pipe = pipe
        self._offset = 0
        if pipe is not None:
            os.set_blocking(pipe, False)
            with contextlib.suppress(OSError):  # the user has too many of them: it stays small
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CAPACITY)

    def take(self, message: dict[str, Any]) -> dict[str, Any]:
        """Bytes from an offset on; what we had already is skipped, what doesn't fit is asked for again.
        Raises KeyError, TypeError, ValueError for a message that makes no sense."""
        data = base64.b64decode(message["data"], validate=True)
        skip = self._offset - int(message["offset"])
        if self._pipe is None:
            known = {"offset": self._offset}
            return known if skip >= len(data) else known | {"error": "closed"}
        if skip < 0:
            return {"error": "gap", "offset": self._offset}
        rest = data[skip:]
        try:
            written = os.write(self._pipe, rest) if rest else 0
        except BlockingIOError:
            written = 0
        except OSError:
            self._close()
            return {"error": "closed", "offset": self._offset}
        self._offset += written
        if message.get("eof") and written == len(rest):
            self._close()
        return {"offset": self._offset}

    def _close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
