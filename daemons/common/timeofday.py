"""Whether the time of day can be believed: whoever sets a clock must not make everything old. Pure."""

from __future__ import annotations

from dataclasses import dataclass

HOUR, DAY = 3600.0, 86400.0


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of day as it is believed: its distance from CLOCK_BOOTTIME in one boot."""

    boot_id: str
    offset: float
    doubted_since: float | None = None  # CLOCK_BOOTTIME


def look(known: Clock | None, boot_id: str, wall: float, boot: float) -> Clock:
    """What to believe now. A time of day that jumped by more than an hour is believed after a day."""
    offset = wall - boot
    if known is None or known.boot_id != boot_id:
        return Clock(boot_id, offset)
    if abs(offset - known.offset) <= HOUR:
        return Clock(boot_id, known.offset)
    since = boot if known.doubted_since is None else known.doubted_since
    return Clock(boot_id, offset) if boot - since >= DAY else Clock(boot_id, known.offset, since)
