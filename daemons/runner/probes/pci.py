"""What the PCI bus knows of GPUs, from sysfs."""

from __future__ import annotations

from pathlib import Path

from daemons.runner.probes.sysfs import read

_SYSFS = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # class of display controllers, with or without a connector


def nvidia(root: Path = _SYSFS) -> list[str]:
    """Addresses of the NVIDIA GPUs on the bus, whether or not there is a driver for them."""
    return sorted(
        each.name
        for each in root.glob("*")
        if read(each / "vendor") == _NVIDIA and read(each / "class").startswith(_DISPLAY)
    )


def numa_of(bus: str, root: Path = _SYSFS) -> int | None:
    """The NUMA node of the device at an address as NVML writes it (``00000000:3B:00.0``)."""
    domain, _, rest = bus.lower().partition(":")
    if not rest or "/" in bus:
        return None
    try:
        number = int(read(root / f"{domain[-4:]}:{rest}" / "numa_node"))
    except ValueError:
        return None
    return number if number >= 0 else None
