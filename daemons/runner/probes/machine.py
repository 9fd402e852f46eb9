"""Everything that the host is told of this machine: what it is, and how busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from daemons.common.threads import Threads
from daemons.runner.model import Executor
from daemons.runner.offer import Offer
from daemons.runner.probes import system
from daemons.runner.probes.gpu import Gpus
from hakuriver import __version__
from hakuriver.fields import Executor as ExecutorName
from hakuriver.nodewire import NodeFacts, NodeUsage, NumaFacts


class Machine:
    """Its facts as they are now; ``changed`` is set when the host was told different ones."""

    def __init__(
        self,
        *,
        boot_id: str,
        disk: Path,
        topology: Sequence[NumaFacts],
        executors: Mapping[ExecutorName, Executor],
        engines: Callable[[], dict[str, str]],
        gpus: Gpus,
        threads: Threads,
        changed: asyncio.Event,
        offer: Offer,
    ) -> None:
        self._boot_id = boot_id
        self._disk = disk
        self._topology = list(topology)
        self._executors = executors
        self._engines = engines
        self._gpus = gpus
        self._threads = threads
        self._changed = changed
        self._offer = offer
        self._told: NodeFacts | None = None

    async def facts(self) -> NodeFacts:
        """What this machine is, for a registration."""
        await self._gpus.look()
        self._told = await self._threads.call(self._facts)
        return self._told

    async def usage(self) -> NodeUsage:
        """How busy it is, for a heartbeat."""
        await self._gpus.look()
        if self._told is not None and await self._threads.call(self._facts) != self._told:
            self._changed.set()
        used = await self._threads.call(system.usage, self._disk)
        return used.model_copy(update={"gpus": self._gpus.usage})

    def _facts(self) -> NodeFacts:
        executors = self._executors
        missing = {name: why for name, each in executors.items() if (why := each.unavailable) is not None}
        unavailable = {str(name): why for name, why in missing.items()}
        if self._gpus.unavailable is not None:
            unavailable["gpu"] = self._gpus.unavailable
        return NodeFacts(
            cores=self._offer.cores(system.cores()),
            memory=self._offer.memory(system.memory()),
            labels=self._offer.labels,
            numa=self._topology,
            gpus=self._gpus.facts,
            executors=[name for name in executors if name not in missing],
            unavailable=unavailable,
            away=[name for name in missing if executors[name].away],
            cpu=system.cpu(),
            engines={name: text for name, text in self._engines().items() if text},
            boot_id=self._boot_id,
            version=__version__,
        )
