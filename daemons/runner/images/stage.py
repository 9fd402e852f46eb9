"""How far something long is: written by the thread that does it, read by everybody who waits for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import UTC, datetime

from hakuriver.units import format_size
from hakuriver.views import WorkView

WINDOW = 5.0  # seconds that a speed is measured over
INTERVAL = 0.25  # seconds between two measurements


class GivenUp(Exception):
    """Nobody waits for it any more."""


class Stage:
    """What one thread does to bring ``what`` here: ``loading torch@1700000000: 1.2G of 5G, 430M/s``."""

    def __init__(self, verb: str, what: str) -> None:
        self._what = what
        self._stop = threading.Event()
        self.moves = 0
        """Grows as long as it gets on."""
        self.say(verb)

    def say(self, verb: str, total: int | None = None) -> None:
        """What is done from now on, of so many bytes where that is known."""
        self._text, self._done, self._total, self._trouble = f"{verb} {self._what}", 0, total, ""
        self._marks = deque([(time.monotonic(), 0)])
        self.moves += 1

    def at(self, done: int, total: int | None = None) -> None:
        """So many bytes are done; raises GivenUp."""
        if self._stop.is_set():
            raise GivenUp
        self.moves += 1
        self._done, self._trouble = done, ""
        self._total = total if total is not None else self._total
        now = time.monotonic()
        if now - self._marks[-1][0] >= INTERVAL:
            self._marks.append((now, done))
            while now - self._marks[0][0] > WINDOW:
                self._marks.popleft()

    def wait(self, seconds: float, trouble: str = "") -> None:
        """Rest in the thread that does it; raises GivenUp."""
        self.moves += 1
        self._trouble = trouble
        if self._stop.wait(seconds):
            raise GivenUp

    def give_up(self) -> None:
        """Let the thread that does it raise GivenUp soon."""
        self._stop.set()

    def view(self, since: datetime) -> WorkView:
        """As clients see it; ``since`` when all of it began."""
        return {
            "kind": "load",
            "by": "",
            "since": f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{since.microsecond // 1000:03}Z",
            "text": f"{self._text}; {self._trouble}" if self._trouble else self._text,
            "done": self._done,
            "total": self._total,
            "speed": self._speed(),
        }

    def __str__(self) -> str:
        if self._trouble:
            return f"{self._text}; {self._trouble}"
        if not self._done:
            return self._text
        speed = self._speed()
        of = f" of {format_size(self._total)}" if self._total else ""
        return f"{self._text}: {format_size(self._done)}{of}" + (
            f", {format_size(int(speed))}/s" if speed else ""
        )

    def _speed(self) -> float | None:
        marks = list(self._marks)
        seconds = time.monotonic() - marks[0][0]
        return None if seconds < INTERVAL else max(0.0, (self._done - marks[0][1]) / seconds)
