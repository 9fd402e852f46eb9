"""The forms that options of a submission are written in, each as the request has it. Pure; UsageError."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from hakuriver import units
from hakuriver.cli.parsing import one_of
from hakuriver.errors import UsageError

MOST_GPUS = 1024
NOTICE_SIGNALS = {
    f"{name}": int(getattr(signal, f"SIG{name}")) for name in ("HUP", "INT", "USR1", "USR2", "TERM")
}
_MOUNT_HINT = "write /on/the/node:/in/the/container[:ro]"
_ULIMIT_HINT = "write nofile=1024, nofile=1024:4096 or memlock=unlimited"
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}\Z")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9._:/-]{0,63}\Z")


def environment(given: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """``K=V`` and ``K`` (its value here) as a mapping, the last one wins."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--env {text!r} has no name", hint="write --env NAME=VALUE or --env NAME")
        if not equals and name not in environ:
            raise UsageError(f"--env {name}: {name} is not set here", hint=f"write --env {name}=VALUE")
        found[name] = value if equals else environ[name]
    return found


def mount(text: str) -> dict[str, Any]:
    """``H:C`` or ``H:C:ro``."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target or mode not in ("", "ro", "rw"):
        raise UsageError(f"mount {text!r} can't be understood", hint=_MOUNT_HINT)
    if not source.startswith("/") or not target.startswith("/"):
        raise UsageError(f"mount {text!r} needs two absolute paths", hint=_MOUNT_HINT)
    return {"source": source, "target": target, "read_only": mode == "ro"}


def gpus(text: str) -> tuple[int, str | None]:
    """``2`` or ``2:a100``: how many, and part of their model's name."""
    number, colon, model = text.partition(":")
    if not re.fullmatch(r"[0-9]{1,4}", number) or int(number) > MOST_GPUS or (colon and not model.strip()):
        raise UsageError(
            f"{text!r} is not a number of GPUs",
            hint="write 2 or 2:a100; GPUs of a node by index: --target n1::0,1",
        )
    if len(model) > 64:
        raise UsageError(f"GPU model {model[:20]!r}… is longer than 64 characters")
    return int(number), model.strip() or None


def label(text: str) -> tuple[str, str]:
    """``K=V``."""
    name, equals, value = text.partition("=")
    if not equals or not _LABEL.match(name) or not _LABEL_VALUE.match(value):
        raise UsageError(f"label {text!r} can't be understood", hint="write KEY=VALUE, for example room=b12")
    return name, value


def ulimit(text: str) -> tuple[str, list[int]]:
    """``name=soft[:hard]``; -1 stands for ``unlimited``."""
    name, equals, rest = text.partition("=")
    soft, colon, hard = rest.partition(":")
    if not equals:
        raise UsageError(f"limit {text!r} can't be understood", hint=_ULIMIT_HINT)
    known = one_of("limit", sorted(units.ULIMITS))(name)
    low, high = _bound(text, soft), _bound(text, hard if colon else soft)
    units.check_ulimit(known, low, high)
    return known, [low, high]


def _bound(text: str, part: str) -> int:
    if part in ("unlimited", "-1"):
        return -1
    if not re.fullmatch(r"[0-9]{1,18}", part):
        raise UsageError(f"limit {text!r}: {part!r} is not a whole number", hint=_ULIMIT_HINT)
    return int(part)


def notice(text: str) -> dict[str, Any]:
    """``[SIG@]DURATION``: the signal (USR1 when none is named) and the seconds before the end."""
    name, at, duration = text.rpartition("@")
    seconds = positive(duration)
    if not at:
        return {"signal": NOTICE_SIGNALS["USR1"], "seconds": seconds}
    known = name.upper().removeprefix("SIG")
    return {"signal": NOTICE_SIGNALS[one_of("signal", tuple(NOTICE_SIGNALS))(known)], "seconds": seconds}


def positive(text: str) -> float:
    """A duration that is longer than nothing."""
    seconds = units.parse_duration(text)
    if seconds <= 0:
        raise UsageError(f"duration {text!r} must be longer than 0")
    return seconds


def format_notice(given: Mapping[str, Any]) -> str:
    """A notice as people read it: ``USR1 5m00s before``."""
    names = {number: name for name, number in NOTICE_SIGNALS.items()}
    number = given.get("signal", NOTICE_SIGNALS["USR1"])  # the default is left out of what a task wants
    return f"{names.get(number, number)} {units.format_duration(given['seconds'])} before"


def format_ulimit(name: str, bounds: Sequence[int]) -> str:
    """A limit as it is typed."""
    low, high = ("unlimited" if bound == -1 else str(bound) for bound in bounds)
    return f"{name}={low}" if low == high else f"{name}={low}:{high}"
