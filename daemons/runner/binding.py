"""What a task is bound to and limited by on this node, and what the node must refuse. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hakuriver.errors import CannotFit, UsageError
from hakuriver.wire import AttemptSpec, NumaFacts

# the kernel's numbers, on all architectures that Linux calls generic and on x86
_NAMES = "cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime"
ULIMITS = {name: number for number, name in enumerate(_NAMES.split())}


def check(spec: AttemptSpec, topology: Sequence[NumaFacts], node: str) -> None:
    """Raise what this node will never be able to give."""
    if spec.numa is not None and all(each.id != spec.numa for each in topology):
        raise CannotFit(f"node {node} has no NUMA node {spec.numa}")
    for name, (soft, hard) in spec.ulimits.items():
        if name not in ULIMITS:
            raise UsageError(f"there is no ulimit {name!r}", hint=f"known: {', '.join(sorted(ULIMITS))}")
        if hard != -1 and not -1 < soft <= hard:
            raise UsageError(f"ulimit {name}: the soft limit {soft} is above the hard one {hard}")


def memory_nodes(spec: AttemptSpec, topology: Sequence[NumaFacts]) -> list[int]:
    """The NUMA nodes from which its memory must come, empty for any: one without memory can't be bound to."""
    return [each.id for each in topology if each.id == spec.numa and each.memory]


def ulimit_numbers(spec: AttemptSpec) -> list[tuple[int, int, int]]:
    """``(number, soft, hard)`` of each limit that was asked for."""
    return [(ULIMITS[name], soft, hard) for name, (soft, hard) in spec.ulimits.items()]
