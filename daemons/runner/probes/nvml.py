"""The process that speaks NVML for the runner: a line in, one line of JSON with all GPUs out.

A process of its own, because a call into a sick driver may hang where no signal reaches it, crash the
caller, or go on with the library of a driver that was replaced: none of that may be the runner's. Standard
library and pynvml only.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

MIG_INDEX = 100
"""Instance i of GPU g is shown as number ``MIG_INDEX * (g + 1) + i``."""
NO_LIBRARY = "library"
"""``kind`` of a failure: there is no NVIDIA driver library. Any other failure has the kind ``driver``."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU or a MIG instance as the driver tells of it now; None where it can't tell. Bytes, percent, °C, W.

    ``uuid`` is empty for a GPU that is so ``lost`` that it doesn't even say who it is. ``near``: the NUMA
    nodes that the driver takes to be close. ``processes``: (pid, bytes) of those that compute.
    """

    index: int
    uuid: str = ""
    model: str = ""
    bus: str = ""
    near: tuple[int, ...] = ()
    memory: int = 0
    memory_used: int | None = None
    utilization: float | None = None
    temperature: float | None = None
    power: float | None = None
    mig: bool = False
    parent: str | None = None
    lost: str | None = None
    processes: tuple[tuple[int, int | None], ...] = ()


class Reader:
    """Reads all GPUs through an initialised pynvml."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._without_driver = {
            nvml.NVML_ERROR_UNINITIALIZED,
            nvml.NVML_ERROR_DRIVER_NOT_LOADED,
            nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        }
        self._without_gpu = {
            nvml.NVML_ERROR_GPU_IS_LOST,
            nvml.NVML_ERROR_RESET_REQUIRED,
            nvml.NVML_ERROR_GPU_NOT_FOUND,
        }

    def devices(self) -> list[Device]:
        """Every GPU, each followed by its MIG instances; raises NVMLError when the driver is gone."""
        found: list[Device] = []
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                found += list(self._gpu(index))
            except self._nvml.NVMLError as error:
                if error.value in self._without_driver:
                    raise
                found.append(Device(index, self._name(index), lost=str(error)))
        return found

    def _name(self, index: int) -> str:
        """The UUID of a GPU that says nothing else, if it says that."""
        try:
            return str(self._nvml.nvmlDeviceGetUUID(self._nvml.nvmlDeviceGetHandleByIndex(index)))
        except self._nvml.NVMLError:
            return ""

    def _gpu(self, index: int) -> Iterator[Device]:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = nvml.nvmlDeviceGetUUID(handle)
        mode = self._ask(nvml.nvmlDeviceGetMigMode, handle)
        pci = self._ask(nvml.nvmlDeviceGetPciInfo, handle)
        bus, near = _text(pci.busId) if pci else "", self._near(handle)
        mig = mode is not None and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE
        yield self._measure(handle, index=index, uuid=uuid, bus=bus, near=near, mig=mig)
        if not mig:
            return
        for number in range(self._ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            instance = self._ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
            name = None if instance is None else self._ask(nvml.nvmlDeviceGetUUID, instance)
            if name is not None:
                place = MIG_INDEX * (index + 1) + number
                yield self._measure(instance, index=place, uuid=name, bus=bus, near=near, parent=uuid)

    def _measure(self, handle: Any, *, mig: bool = False, **known: Any) -> Device:
        nvml, ask = self._nvml, self._ask
        memory = self._memory(handle)
        rates = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        temperature = ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        if temperature is None:  # newer drivers announce the end of the call above
            temperature = ask(nvml.nvmlDeviceGetTemperatureV, handle, nvml.NVML_TEMPERATURE_GPU)
        milliwatts = ask(nvml.nvmlDeviceGetPowerUsage, handle)
        processes = () if mig else ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
        return Device(
            model=ask(nvml.nvmlDeviceGetName, handle) or "unknown",
            memory=int(memory.total) if memory else 0,
            memory_used=int(memory.used) if memory else None,
            utilization=float(rates.gpu) if rates else None,
            temperature=None if temperature is None else float(temperature),
            power=None if milliwatts is None else milliwatts / 1000,
            processes=tuple((int(each.pid), each.usedGpuMemory) for each in processes),
            mig=mig,
            **known,
        )

    def _memory(self, handle: Any) -> Any:
        """Without what the driver keeps for itself, where it tells that apart, as nvidia-smi has it."""
        get = self._nvml.nvmlDeviceGetMemoryInfo
        return self._ask(get, handle, version=self._nvml.nvmlMemory_v2) or self._ask(get, handle)

    def _near(self, handle: Any) -> tuple[int, ...]:
        words = self._ask(self._nvml.nvmlDeviceGetMemoryAffinity, handle, 16, 0) or ()
        return tuple(
            64 * place + bit for place, word in enumerate(words) for bit in range(64) if word >> bit & 1
        )

    def _ask(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What a call says; None when this GPU or this driver can't say it. Raises NVMLError for worse."""
        try:
            return function(*arguments, **named)
        except self._nvml.NVMLError as error:
            if error.value in self._without_driver | self._without_gpu:
                raise
            return None


def _text(value: str | bytes) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


def _reason(nvml: Any, error: Any) -> str:
    known = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver library (libnvidia-ml.so.1) is installed",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver isn't loaded",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver that runs isn't the installed one"
        " (load it anew, or restart the machine)",
        nvml.NVML_ERROR_NO_PERMISSION: "this user may not use the NVIDIA driver",
    }
    return known.get(error.value, f"the NVIDIA driver says: {error}")


def serve(lines: Any, say: Callable[[dict[str, Any]], None]) -> int:
    """Answer each line with the devices until there are no more lines; end with the reason of a failure."""
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
        reader = Reader(nvml)
        for _ in lines:
            say({"devices": [asdict(each) for each in reader.devices()]})
    except nvml.NVMLError as error:
        missing = error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND
        say({"failure": _reason(nvml, error), "kind": NO_LIBRARY if missing else "driver"})
        return 1
    return 0


def main() -> int:
    """Serve standard input and output; what the driver itself prints goes nowhere."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    return serve(sys.stdin, say)
