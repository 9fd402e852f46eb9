"""Times as they are stored and shown, and the clock that decisions are made by."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path


def now() -> str:
    """This moment as RFC 3339 in UTC with milliseconds: ``2026-01-31T12:00:00.123Z``."""
    return text(datetime.now(UTC))


def later(seconds: float) -> str:
    """The moment so many seconds from now."""
    return text(datetime.now(UTC) + timedelta(seconds=seconds))


def text(moment: datetime) -> str:
    """Any moment in that form; one without a zone is taken as UTC."""
    try:
        utc = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        utc = moment.replace(tzinfo=UTC)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def of(timestamp: float) -> str:
    """A moment given as seconds since 1970."""
    return text(datetime.fromtimestamp(timestamp, UTC))


def until(moment: str) -> float:
    """Seconds from now until a stored moment; negative when it has passed."""
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


def boottime() -> float:
    """Seconds on a clock that nobody can set and that runs on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """What names this machine's boot, for as long as that other clock runs."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
