"""What this machine is and how busy it is. Blocking: for a thread."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import psutil

from daemons.runner.probes.sysfs import numbers, read
from hakuriver.nodewire import CpuFacts, NodeUsage

_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def cores(
    *, affinity: int | None = None, root: Path = Path("/sys/fs/cgroup"), own: str | None = None
) -> float:
    """CPUs that this process may really use: its affinity, and what control groups grant it."""
    count = float(affinity if affinity is not None else len(os.sched_getaffinity(0)))
    return min([count, *_quotas(root, own)])


def _quotas(root: Path, own: str | None) -> list[float]:
    """CPUs granted by each group above this process, of either version."""
    found: list[float] = []
    for line in (own if own is not None else read(Path("/proc/self/cgroup"))).splitlines():
        number, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if number == "0":
            bases = [root, root / "unified"]
        elif "cpu" in names:
            bases = [root / controllers, root / "cpu"]
        else:
            continue
        for base in bases:
            group = base / path.lstrip("/")
            while group.is_relative_to(base):
                found += _quota(group)
                if group == base:
                    break
                group = group.parent
    return found


def _quota(group: Path) -> list[float]:
    parts = read(group / "cpu.max").split() or [
        *read(group / "cpu.cfs_quota_us").split(),
        *read(group / "cpu.cfs_period_us").split(),
    ]
    if len(parts) != 2 or not all(part.isdigit() for part in parts) or parts[1] == "0":
        return []
    return [max(0.01, int(parts[0]) / int(parts[1]))]


def cpu(root: Path = Path("/sys/devices/system/cpu"), info: Path = Path("/proc/cpuinfo")) -> CpuFacts | None:
    """Sockets, cores and threads that are online; None where the kernel doesn't tell."""
    online = numbers(root / "online")
    if not online:
        return None
    sockets: set[str] = set()
    cores: set[str] = set()
    for number in online:
        folder = root / f"cpu{number}" / "topology"
        sockets.add(read(folder / "physical_package_id") or "0")
        siblings = read(folder / "core_cpus_list") or read(folder / "thread_siblings_list")
        cores.add(siblings or str(number))
    named = re.search(r"^(?:model name|Model|cpu model|cpu)\s*:\s*(.+)$", read(info), re.MULTILINE)
    model = named[1].strip() if named else platform.machine()
    return CpuFacts(model=model, sockets=len(sockets), cores=len(cores), threads=len(online))


def memory() -> int:
    """Bytes of main memory."""
    return int(psutil.virtual_memory().total)


def usage(disk: Path) -> NodeUsage:
    """Use of the whole machine since the last call."""
    virtual = psutil.virtual_memory()
    try:
        free: int | None = psutil.disk_usage(str(disk)).free
    except OSError:
        free = None
    return NodeUsage(
        cpu_percent=psutil.cpu_percent(interval=None),
        load=os.getloadavg()[0],
        memory_used=int(virtual.total - virtual.available),
        disk_free=free,
        temperature=_temperature(),
    )


def _temperature() -> float | None:
    """The hottest CPU sensor in °C."""
    try:
        sensors = psutil.sensors_temperatures()
    except (OSError, ValueError, AttributeError):
        return None
    for name in _CPU_SENSORS:
        found = [each.current for each in sensors.get(name, ()) if each.current is not None]
        if found:
            return float(max(found))
    return None
