"""The GPUs of this machine: which there are, how busy, whether they still answer, and who computes there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from daemons.common.log import Log
from daemons.common.threads import Threads
from daemons.runner.model import Attempt
from daemons.runner.probes import pci
from daemons.runner.probes.helper import NO_ANSWER, Helper, NoDriver
from daemons.runner.probes.nvml import Device
from daemons.runner.probes.owners import Owners, foreign, is_mps_server
from hakuriver.nodewire import GpuFacts, GpuProcess, GpuUsage

log = Log("gpu")
FIRST_PATIENCE = 10.0  # seconds that the registration waits for a driver that has to wake its GPUs up
PATIENCE = 1.0  # seconds that a heartbeat waits for the driver, once: then it has the values of before
SILENCE = 6.0  # seconds after which a driver counts as one that doesn't answer
SETTLE = 30.0  # seconds after which such a driver is asked anew
NOT_LISTED = "the NVIDIA driver doesn't list it any more"
_NAMELESS = "unknown-"
_LISTED_PROCESSES = 64
Living = Callable[[], Awaitable[list[Attempt]]]


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of the GPUs: all that there are, and what the last look at each brought (by UUID)."""

    gpus: tuple[GpuFacts, ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Device] = field(default_factory=dict)
    processes: Mapping[str, Sequence[GpuProcess]] = field(default_factory=dict)
    external: frozenset[str] = frozenset()


class Gpus:
    """Looks at the GPUs whenever it is asked to, and never waits long.

    A GPU that was there since the machine started stays known, also when it is lost or the driver is gone:
    ``memory`` is the file that survives restarts of the runner.
    """

    def __init__(self, living: Living, attempts: Path, memory: Path, boot_id: str) -> None:
        self._living = living
        self._attempts = attempts
        self._memory = memory
        self._boot_id = boot_id
        self._helper = Helper()
        self._threads = Threads("gpus", 1)
        self._looking: asyncio.Task[None] | None = None
        self._since = -math.inf  # when that was begun
        self._first = True
        self._sight: Sight | None = None  # None: not looked yet
        self.unavailable: str | None = None
        """Why there are no GPUs to use; None also for a machine that was built without any."""

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._threads.submit(self._helper.close)
        self._threads.close()

    async def look(self) -> None:
        """Bring ``facts`` and ``usage`` up to date, unless the driver doesn't answer."""
        clock, patience = asyncio.get_running_loop().time, 0.0
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
            self._since = clock()
            patience = FIRST_PATIENCE if self._first else PATIENCE
            self._first = False
        await asyncio.wait({self._looking}, timeout=patience)
        if not self._looking.done():
            if clock() - self._since >= SILENCE:
                self._without(NO_ANSWER)
        elif (error := self._looking.exception()) is not None:
            log.unexpected("look_failed", error)
            self._without("the GPUs can't be looked at (the runner's log says why)")

    @property
    def facts(self) -> list[GpuFacts]:
        return list(self._sight.gpus) if self._sight else []

    @property
    def usage(self) -> list[GpuUsage]:
        sight = self._sight or Sight()
        return [_usage(each, sight) for each in sight.gpus]

    async def _look(self) -> None:
        try:
            known = self._sight
            if known is None:
                known = self._sight = await self._threads.call(self._remember)
            devices = await self._threads.call_within(SETTLE + 10, lambda: self._helper.ask(SETTLE))
            sight = await self._threads.call(self._see, known, devices, await self._living())
        except NoDriver as error:
            nothing = error.library and not self.facts
            self._without(await self._threads.call(_missing) if nothing else str(error))
        except TimeoutError:
            self._without(NO_ANSWER)
        else:
            await self._seen(sight)

    def _see(self, known: Sight, devices: list[Device], living: list[Attempt]) -> Sight:
        gpus, lost = merge(known.gpus, devices, pci.numa_of)
        busy = any(device.processes for device in devices)
        owners = Owners(living if busy else (), self._attempts, self._boot_id)
        holders = {uuid: each.spec.task for each in living for uuid in each.spec.gpu_uuids}
        processes: dict[str, list[GpuProcess]] = {}
        external: set[str] = set()
        for device in devices:
            memory = {pid: used for pid, used in device.processes if not is_mps_server(pid)}
            listed = {pid: owners.of(pid) for pid in memory}
            before = {each.pid for each in known.processes.get(device.uuid, ()) if each.task is None}
            if foreign(listed, holders.get(device.uuid), before):
                external.add(device.uuid)
            processes[device.uuid] = [
                GpuProcess(pid=pid, user=each.user, memory=memory[pid], task=each.task)
                for pid, each in listed.items()
            ]
        found = {each.uuid: each for each in devices if each.uuid}
        return Sight(gpus, lost, found, processes, frozenset(external))

    async def _seen(self, sight: Sight) -> None:
        before = self._sight or Sight()
        self._sight = sight
        if self.unavailable is not None:
            log.info("driver_answers")
        self.unavailable = None
        for uuid in sight.lost.keys() - before.lost.keys():
            log.error("gpu_lost", gpu=uuid, reason=sight.lost[uuid])
        for uuid in before.lost.keys() - sight.lost.keys():
            log.info("gpu_back", gpu=uuid)
        if sight.gpus != before.gpus:
            log.info("gpus_found", count=len(sight.gpus), instances=sum(bool(g.parent) for g in sight.gpus))
            with contextlib.suppress(OSError, TimeoutError):  # a convenience for the next start
                await self._threads.call(self._write, sight.gpus)

    def _without(self, reason: str | None) -> None:
        """The driver can't be asked: what is known to be there can't be used."""
        if reason is not None and reason != self.unavailable:
            log.warning("no_gpus", reason=reason)
        self.unavailable = reason
        if self._sight is not None and reason is not None:
            gpus = self._sight.gpus
            self._sight = Sight(gpus, {each.uuid: reason for each in gpus})

    # ---- what survives a restart of the runner, but not one of the machine

    def _remember(self) -> Sight:
        try:
            stored = json.loads(self._memory.read_text("utf-8"))
            if stored["boot_id"] != self._boot_id:
                return Sight()
            return Sight(tuple(GpuFacts.model_validate(each) for each in stored["gpus"]))
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return Sight()

    def _write(self, gpus: Sequence[GpuFacts]) -> None:
        text = json.dumps({"boot_id": self._boot_id, "gpus": [each.model_dump() for each in gpus]})
        fresh = self._memory.with_suffix(".new")
        fresh.write_text(text, "utf-8")
        fresh.replace(self._memory)


def merge(
    known: Sequence[GpuFacts], devices: Sequence[Device], numa_of: Callable[[str], int | None]
) -> tuple[tuple[GpuFacts, ...], dict[str, str]]:
    """All GPUs there are, by number, and why some are lost (by UUID).

    Who was known keeps its number. Who isn't listed any more is lost, but for instances: those come and go as
    people like, unless their GPU itself is lost.
    """
    uuids = {each.uuid for each in devices}
    named = {each.uuid or _nameless(each.index, known, uuids): each for each in devices}
    lost = {uuid: each.lost for uuid, each in named.items() if each.lost is not None}
    for gpu in known:
        if gpu.uuid not in named and gpu.parent is None and not gpu.uuid.startswith(_NAMELESS):
            lost[gpu.uuid] = NOT_LISTED
    found = {gpu.uuid: gpu for gpu in known if gpu.uuid in named or gpu.uuid in lost or gpu.parent in lost}
    lost |= {uuid: lost[gpu.parent] for uuid, gpu in found.items() if gpu.parent in lost}
    for uuid, device in named.items():
        before = found.get(uuid)
        if before is None or device.lost is None:
            taken = [gpu.index for gpu in found.values()]
            found[uuid] = GpuFacts(
                index=before.index if before else _number(device.index, taken),
                uuid=uuid,
                model=device.model or "unknown",
                memory=device.memory,
                numa=_numa(device, numa_of),
                mig=device.mig,
                parent=device.parent,
            )
    return tuple(sorted(found.values(), key=lambda each: each.index)), lost


def _nameless(index: int, known: Sequence[GpuFacts], listed: Collection[str]) -> str:
    """Who a GPU is that doesn't say it: the one with its number that nobody else is."""
    for each in known:
        if each.index == index and each.uuid not in listed:
            return each.uuid
    return f"{_NAMELESS}{index}"


def _number(wanted: int, taken: Collection[int]) -> int:
    return wanted if wanted not in taken else max(taken) + 1


def _numa(device: Device, numa_of: Callable[[str], int | None]) -> int | None:
    """From the bus; where that doesn't know it, what the driver says, if it is certain."""
    number = numa_of(device.bus)
    if number is None and len(device.near) == 1:
        return device.near[0]
    return number


def _usage(gpu: GpuFacts, sight: Sight) -> GpuUsage:
    device, lost = sight.devices.get(gpu.uuid), sight.lost.get(gpu.uuid)
    if device is None or lost is not None:
        return GpuUsage(uuid=gpu.uuid, lost=lost)
    return GpuUsage(
        uuid=gpu.uuid,
        memory_used=device.memory_used,
        utilization=device.utilization,
        temperature=device.temperature,
        power=device.power,
        external=gpu.uuid in sight.external,
        processes=list(sight.processes.get(gpu.uuid, ()))[:_LISTED_PROCESSES],
    )


def _missing() -> str | None:
    """Why there is no driver library: where there is no such GPU either, nothing is missing."""
    seen = pci.nvidia()
    return f"no NVIDIA driver is installed for {', '.join(seen)}" if seen else None
