"""NUMA nodes from sysfs."""

from __future__ import annotations

import re
from pathlib import Path

from hakuriver.wire import NumaFacts

_SYSFS = Path("/sys/devices/system/node")


def nodes(root: Path = _SYSFS) -> list[NumaFacts]:
    """Every NUMA node with its CPUs and memory in bytes; empty where the kernel has none."""
    found: list[NumaFacts] = []
    for folder in sorted(root.glob("node[0-9]*"), key=lambda path: int(path.name[4:])):
        try:
            cpus = parse_list((folder / "cpulist").read_text("ascii"))
            memory = re.search(r"MemTotal:\s+(\d+) kB", (folder / "meminfo").read_text("ascii"))
        except (OSError, ValueError):
            continue
        found.append(
            NumaFacts(id=int(folder.name[4:]), cpus=cpus, memory=int(memory[1]) * 1024 if memory else 0)
        )
    return found


def parse_list(text: str) -> list[int]:
    """The kernel's lists: ``0-3,8,10-11``."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found
