"""Where a task goes: ``node[:numa][::gpu[,gpu…]]``.

``n1`` · ``n1:0`` (NUMA node 0) · ``n1::0,2`` (GPUs 0 and 2) · ``n1:1::0,2`` (both).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hakuriver.errors import UsageError

NODE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
_TARGET = re.compile(r"(?P<node>[^:]*)(?::(?P<numa>[^:]*))?(?:::(?P<gpus>.*))?\Z", re.DOTALL)
_ID = re.compile(r"[0-9]{1,4}\Z")
_HINT = "a target is node[:numa][::gpu[,gpu…]], for example n1, n1:0, n1::0,1 or n1:1::0,2"


@dataclass(frozen=True, slots=True)
class Target:
    """One parsed target; ``gpus`` are indices in ascending order, empty for none."""

    node: str
    numa: int | None = None
    gpus: tuple[int, ...] = ()

    def __str__(self) -> str:
        numa = "" if self.numa is None else f":{self.numa}"
        gpus = f"::{','.join(map(str, self.gpus))}" if self.gpus else ""
        return f"{self.node}{numa}{gpus}"


def parse(text: str) -> Target:
    """Parse one target; raises UsageError that names the part that is wrong."""
    match = _TARGET.match(text)
    if match is None:
        raise UsageError(f"target {text!r} can't be understood", hint=_HINT)
    node, numa, gpus = match["node"], match["numa"], match["gpus"]
    if not NODE_NAME.match(node):
        raise UsageError(f"target {text!r}: {node!r} is not a node name", hint=_HINT)
    return Target(
        node=node,
        numa=None if numa is None else _id(text, numa, "NUMA node"),
        gpus=() if gpus is None else _gpus(text, gpus),
    )


def _id(text: str, part: str, what: str) -> int:
    if not _ID.match(part) or not part.isascii():
        raise UsageError(f"target {text!r}: {part!r} is not a {what} number", hint=_HINT)
    return int(part)


def _gpus(text: str, part: str) -> tuple[int, ...]:
    ids = [_id(text, piece, "GPU") for piece in part.split(",")]
    for gpu in ids:
        if ids.count(gpu) > 1:
            raise UsageError(f"target {text!r} names GPU {gpu} twice", hint=_HINT, code="duplicate_gpu")
    return tuple(sorted(ids))
