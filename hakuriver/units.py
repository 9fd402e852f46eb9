"""Sizes, durations and ages, in the forms that people type and read."""

from __future__ import annotations

import re
from decimal import Decimal

from hakuriver.errors import UsageError

_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>[KMGT]iB|[KMGT]B?|B)?\Z")
_DECIMAL = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_DURATION = re.compile(r"(?=.)(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?\Z")
_SECONDS = (604800, 86400, 3600, 60, 1)
MAX_SIZE = 2**60
MAX_DURATION = 10 * 365 * 86400.0
MAX_CORES = 4096


def parse_size(text: str) -> int:
    """Bytes of ``512M`` (1000-based), ``4GiB`` (1024-based), ``1.5G`` or a plain number of bytes."""
    match = _SIZE.match(text.strip()) if text.isascii() else None
    if match is None:
        raise UsageError(
            f"size {text!r} can't be understood", hint="write 512M, 4G, 1.5G (1000-based) or 512MiB, 4GiB"
        )
    number, unit = Decimal(match["number"]), match["unit"] or ""
    factor = 1
    if unit and unit != "B":
        factor = (_BINARY if unit.endswith("iB") else _DECIMAL)[unit[0]]
    size = number * factor
    if size > MAX_SIZE:
        raise UsageError(f"size {text!r} is larger than 1 EiB")
    if size != size.to_integral_value():
        raise UsageError(f"size {text!r} is not a whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """A short 1000-based form, at most three significant digits: ``0``, ``512M``, ``1.5G``."""
    if size < 1000:
        return str(size)
    value, unit = float(size), ""
    for unit in "KMGTPE":  # noqa: B007
        value /= 1000
        if round(value, 1 if value < 9.95 else 0) < 1000:
            break
    return f"{value:.0f}{unit}" if value >= 9.95 or abs(value - round(value)) < 0.05 else f"{value:.1f}{unit}"


def parse_duration(text: str) -> float:
    """Seconds of ``90`` (seconds), ``30m``, ``2h``, ``1d12h``, ``1.5s``."""
    cleaned = text.strip()
    if not cleaned.isascii():
        raise _bad_duration(text)
    if re.fullmatch(r"\d+(\.\d+)?", cleaned):
        seconds = float(cleaned)
    else:
        match = _DURATION.match(cleaned)
        if match is None:
            raise _bad_duration(text)
        seconds = sum(
            float(part) * unit
            for part, unit in zip(match.groups(), _SECONDS, strict=True)
            if part is not None
        )
    if seconds > MAX_DURATION:
        raise UsageError(f"duration {text!r} is longer than ten years")
    return seconds


def _bad_duration(text: str) -> UsageError:
    return UsageError(f"duration {text!r} can't be understood", hint="write 90, 90s, 30m, 2h or 1d12h")


def format_duration(seconds: float) -> str:
    """The two largest units: ``0s``, ``42s``, ``3m05s``, ``2h07m``, ``3d04h``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def parse_cores(text: str) -> float:
    """Cores as a number ≥ 0 with at most three decimals; 0 reserves none."""
    if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text.strip()) or not text.isascii():
        raise UsageError(f"cores {text!r} is not a number of cores", hint="write 0, 0.5, 1, 8 …")
    cores = float(text)
    if cores > MAX_CORES:
        raise UsageError(f"cores {text!r} is more than {MAX_CORES}")
    return cores


def millicores(cores: float) -> int:
    """Cores as whole thousandths, the unit of all accounting (floats don't add up)."""
    return round(cores * 1000)


def format_cores(cores: float) -> str:
    """``1``, ``0.5``, ``2.25``."""
    return f"{cores:.3f}".rstrip("0").rstrip(".")


# in the order of the kernel's numbers, on all architectures that Linux calls generic and on x86
_ULIMITS = (
    "cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime"
)
ULIMITS = {name: number for number, name in enumerate(_ULIMITS.split())}
"""Name of a resource limit → the kernel's number."""


def check_ulimit(name: str, soft: int, hard: int) -> None:
    """Raise UsageError for a limit that no kernel takes; -1 is unlimited."""
    if name not in ULIMITS:
        raise UsageError(f"there is no ulimit {name!r}", hint=f"known: {', '.join(sorted(ULIMITS))}")
    if hard != -1 and not -1 < soft <= hard:
        raise UsageError(f"ulimit {name}: the soft limit {soft} is above the hard one {hard}")
