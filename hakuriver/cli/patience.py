"""A host that our own supervisor is just starting again is waited for: nothing was sent to it yet."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable

from hakuriver.api import Client
from hakuriver.cli.local import supervised
from hakuriver.endpoint import Endpoint
from hakuriver.errors import Unreachable

SECONDS = 10.0
"""The supervisor needs about one; it waits longer only for a host that ends again and again."""
_PAUSE = 0.05
_LONGEST_PAUSE = 0.4


class PatientClient(Client):
    """A client of a cluster of this machine; ``again`` finds where its host is now."""

    def __init__(self, found: Endpoint, again: Callable[[], Endpoint]) -> None:
        super().__init__(found.url, found.token)
        self._found = found
        self._again = again

    def _connected(self, timeout: float) -> http.client.HTTPConnection:
        give_up = time.monotonic() + SECONDS
        pause = _PAUSE
        while True:
            try:
                return super()._connected(timeout)
            except Unreachable as error:
                refused = isinstance(error.__cause__, ConnectionRefusedError)
                state = self._found.state
                if not refused or state is None or time.monotonic() > give_up or not supervised(state):
                    raise
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            self._found = self._again()  # it may come back on another port
            super().__init__(self._found.url, self._found.token)
