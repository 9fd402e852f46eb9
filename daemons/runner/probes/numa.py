"""NUMA nodes from sysfs, and what ``numactl`` thinks of that. Blocking: for a thread."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from daemons.runner.probes.sysfs import numbers, read
from hakuriver.nodewire import NumaFacts

_SYSFS = Path("/sys/devices/system/node")
_MEBI = 2**20
_PATIENCE = 10.0  # seconds for numactl


def nodes(root: Path = _SYSFS) -> list[NumaFacts]:
    """Every NUMA node that is online: its CPUs, bytes, distances. Empty where the kernel has none."""
    folders = {int(path.name[4:]): path for path in root.glob("node[0-9]*") if path.name[4:].isdigit()}
    online = numbers(root / "online")
    present = sorted(folders if online is None else folders.keys() & set(online))
    found = [_node(number, folders[number], len(present)) for number in present]
    return [each for each in found if each is not None]


def _node(number: int, folder: Path, count: int) -> NumaFacts | None:
    """One node; None when it went offline just now. Its distances are to all ``count`` that are online."""
    cpus = numbers(folder / "cpulist")
    if cpus is None:
        return None
    memory = re.search(r"MemTotal:\s+(\d+) kB", read(folder / "meminfo"))
    words = read(folder / "distance").split()
    return NumaFacts(
        id=number,
        cpus=cpus,
        memory=int(memory[1]) * 1024 if memory else 0,
        distances=[int(word) for word in words]
        if len(words) == count and all(map(str.isdigit, words))
        else [],
    )


# ---- the other opinion


def contradictions(found: Sequence[NumaFacts], tool: str = "numactl") -> list[str]:
    """Where ``numactl --hardware`` says something else than sysfs; nothing where it isn't installed. Starts a
    process: once."""
    if not found or shutil.which(tool) is None:
        return []
    try:
        done = subprocess.run(
            [tool, "--hardware"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [f"numactl --hardware can't be asked: {error}"]
    return differences(found, parse_hardware(done.stdout.decode("utf-8", "replace")))


def parse_hardware(text: str) -> list[NumaFacts]:
    """What ``numactl --hardware`` prints; sizes are whole MiB there."""
    cpus = {int(node): words for node, words in re.findall(r"^node (\d+) cpus:(.*)$", text, re.MULTILINE)}
    sizes = dict(re.findall(r"^node (\d+) size: (\d+) MB$", text, re.MULTILINE))
    rows = dict(re.findall(r"^ *(\d+): +([\d ]+?) *$", text.partition("node distances:")[2], re.MULTILINE))
    return [
        NumaFacts(
            id=node,
            cpus=[int(word) for word in words.split()],
            memory=int(sizes.get(str(node), 0)) * _MEBI,
            distances=[int(word) for word in rows.get(str(node), "").split()],
        )
        for node, words in sorted(cpus.items())
    ]


def differences(ours: Sequence[NumaFacts], theirs: Sequence[NumaFacts]) -> list[str]:
    """In words, what differs: ids, then for each node CPUs, distances, and memory by more than a rounding."""
    if [each.id for each in ours] != [each.id for each in theirs]:
        return [f"nodes: sysfs {[each.id for each in ours]}, numactl {[each.id for each in theirs]}"]
    found: list[str] = []
    for own, other in zip(ours, theirs, strict=True):
        if own.cpus != other.cpus:
            found.append(f"CPUs of node {own.id}: sysfs {own.cpus}, numactl {other.cpus}")
        if own.distances and other.distances and own.distances != other.distances:
            found.append(f"distances of node {own.id}: sysfs {own.distances}, numactl {other.distances}")
        if abs(own.memory - other.memory) > _MEBI:
            found.append(f"memory of node {own.id}: sysfs {own.memory}, numactl {other.memory} bytes")
    return found
