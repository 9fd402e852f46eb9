"""What a task is bound to and limited by on this node, and what the node must refuse. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hakuriver.errors import CannotFit
from hakuriver.nodewire import AttemptSpec, NumaFacts
from hakuriver.units import ULIMITS


def check(spec: AttemptSpec, topology: Sequence[NumaFacts], node: str) -> None:
    """Raise what this node will never be able to give."""
    if spec.numa is not None and all(each.id != spec.numa for each in topology):
        raise CannotFit(f"node {node} has no NUMA node {spec.numa}")


def memory_nodes(spec: AttemptSpec, topology: Sequence[NumaFacts]) -> list[int]:
    """The NUMA nodes from which its memory must come, empty for any: one without memory can't be bound to."""
    return [each.id for each in topology if each.id == spec.numa and each.memory]


def ulimit_numbers(spec: AttemptSpec) -> list[tuple[int, int, int]]:
    """``(number, soft, hard)`` of each limit that was asked for."""
    return [(ULIMITS[name], soft, hard) for name, (soft, hard) in spec.ulimits.items()]
