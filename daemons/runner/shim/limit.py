"""The time limit of a task, on the clock that counts suspension: how long it ran, and what is due when.

Pauses don't count. What must survive whoever watches the clock lies in ``kept``: ``ran`` (seconds up to the
last change), ``since`` (when it went on, None while it is paused), ``noticed``, and ``over`` (when it reached
its limit, None before).
"""

from __future__ import annotations

from typing import Any

LOOK_INTERVAL = 10.0  # waiting stands still while the machine sleeps, this clock doesn't


def fresh(since: float | None) -> dict[str, Any]:
    """What is kept of a task that runs since then."""
    return {"ran": 0.0, "since": since, "noticed": False, "over": None}


class TimeLimit:
    """``order``: ``seconds`` of running, ``notice`` (so many seconds before, None for never), ``signal`` (of
    the notice), ``grace`` (seconds between TERM and KILL)."""

    def __init__(self, order: dict[str, Any], kept: dict[str, Any]) -> None:
        self.signal: int = order["signal"]
        self.grace: float = order["grace"]
        self.kept = kept
        self._seconds: float = order["seconds"]
        self._notice: float | None = order["notice"]

    def ran(self, now: float) -> float:
        """Seconds of running so far."""
        since = self.kept["since"]
        return float(self.kept["ran"] + (0.0 if since is None else max(0.0, now - since)))

    def pause(self, now: float) -> None:
        """It stands still from now on."""
        self.kept |= {"ran": self.ran(now), "since": None}

    def resume(self, now: float) -> None:
        """It goes on, unless it did already."""
        if self.kept["since"] is None:
            self.kept["since"] = now

    @property
    def over(self) -> bool:
        """Whether it was found to have reached its limit."""
        return self.kept["over"] is not None

    def notice_due(self, now: float) -> bool:
        """Whether the signal before the end is to be sent now."""
        return (
            self._notice is not None
            and not self.kept["noticed"]
            and self.ran(now) >= self._seconds - self._notice
        )

    def end_due(self, now: float) -> bool:
        """Whether it ran for as long as it may."""
        return self.ran(now) >= self._seconds

    def wait(self, now: float) -> float:
        """Seconds after which to look again."""
        if self.kept["since"] is None or self.over:
            return LOOK_INTERVAL
        left = self._seconds - self.ran(now)
        if self._notice is not None and not self.kept["noticed"]:
            left -= self._notice
        return min(LOOK_INTERVAL, max(0.02, left))
