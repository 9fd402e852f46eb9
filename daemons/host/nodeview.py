"""Nodes as memory knows them and as clients see them."""

from __future__ import annotations

from dataclasses import dataclass

from daemons.host.ledger import Used
from daemons.host.rows import NodeRow
from daemons.host.scheduling.model import UNMEASURED, Device, NumaRoom, Room
from hakuriver.lifecycle import NodeState
from hakuriver.nodewire import GpuUsage, NodeFacts, NodeUsage, NumaFacts
from hakuriver.units import millicores
from hakuriver.views import CpuView, GpuProcessView, GpuView, NodeView, NumaView, UsageView


@dataclass(slots=True)
class Known:
    """A node as it is stored, with what only memory knows. ``seen`` is on the boottime clock; ``measured``:
    whether ``usage`` is of now, not of a time before it was away."""

    row: NodeRow
    facts: NodeFacts
    seen: float
    seen_at: str | None
    usage: NodeUsage | None = None
    measured: bool = False

    @property
    def online(self) -> bool:
        return self.row.state == NodeState.ONLINE


def read_facts(row: NodeRow) -> NodeFacts:
    """What a stored node's machine is."""
    return NodeFacts.model_validate_json(row.facts)


def node_room(known: Known, used: Used, closed: str) -> Room:
    """A node as the scheduler sees it."""
    facts = known.facts
    cores = millicores(facts.cores)
    return Room(
        name=known.row.name,
        cores=cores,
        cores_free=cores - used.cores,
        memory=facts.memory,
        memory_free=facts.memory - used.memory,
        executors=frozenset(facts.executors),
        away={each: _away(known, each) for each in facts.away},
        closed=closed,
        labels=facts.labels,
        numa={each.id: _numa_room(each, used) for each in facts.numa},
        devices=devices(known),
        devices_used=frozenset(used.devices),
        holdings=used.holdings,
    )


def _away(known: Known, executor: str) -> str:
    why = known.facts.unavailable.get(executor, "no answer")
    return f"{known.row.name} can't run {executor} now: {why}"


def _numa_room(facts: NumaFacts, used: Used) -> NumaRoom:
    cores, memory = used.numa.get(facts.id, (0, 0))
    whole = len(facts.cpus) * 1000
    return NumaRoom(whole, whole - cores, facts.memory, facts.memory - memory)


def devices(known: Known) -> tuple[Device, ...]:
    """What tasks can be given: a GPU that is cut into instances isn't, they are. None while nobody knows
    whether others use them."""
    if not known.facts.gpus:
        return ()
    measured = {each.uuid: each for each in known.usage.gpus} if known.usage else {}
    found = []
    for each in known.facts.gpus:
        if not each.mig:
            use = measured.get(each.uuid) if known.measured else GpuUsage(uuid=each.uuid, lost=UNMEASURED)
            external, lost = (use.external, use.lost or "") if use else (False, "")
            found.append(Device(each.uuid, each.index, each.model, each.memory, each.numa, external, lost))
    return tuple(found)


def node_view(known: Known, used: Used) -> NodeView:
    """A node as clients see it, with what is allocated there."""
    row, facts = known.row, known.facts
    return NodeView(
        name=row.name,
        state=row.state,
        reason=row.reason,
        address=row.address,
        cores=facts.cores,
        cores_free=max(0, millicores(facts.cores) - used.cores) / 1000,
        memory=facts.memory,
        memory_free=max(0, facts.memory - used.memory),
        numa=[
            NumaView(
                id=each.id,
                cpus=each.cpus,
                memory=each.memory,
                memory_free=max(0, each.memory - used.numa.get(each.id, (0, 0))[1]),
                distances=each.distances,
            )
            for each in facts.numa
        ],
        gpus=_gpus(known, used.devices),
        executors=list(facts.executors),
        unavailable=dict(facts.unavailable),
        cpu=_cpu(facts),
        engines=dict(facts.engines),
        labels=dict(facts.labels),
        drained=row.drained,
        drain_reason=row.drain_reason,
        usage=_usage(known),
        tasks=len(used.tasks),
        version=facts.version,
        boot_id=facts.boot_id,
        registered_at=row.registered_at,
        seen_at=known.seen_at,
    )


def _cpu(facts: NodeFacts) -> CpuView | None:
    cpu = facts.cpu
    if cpu is None:
        return None
    return CpuView(model=cpu.model, sockets=cpu.sockets, cores=cpu.cores, threads=cpu.threads)


def _gpus(known: Known, devices: dict[str, int]) -> list[GpuView]:
    measured = {each.uuid: each for each in known.usage.gpus} if known.usage else {}
    shown: list[GpuView] = []
    for each in known.facts.gpus:
        use = measured.get(each.uuid) or GpuUsage(uuid=each.uuid)
        shown.append(
            GpuView(
                index=each.index,
                uuid=each.uuid,
                model=each.model,
                memory=each.memory,
                memory_used=use.memory_used,
                utilization=use.utilization,
                temperature=use.temperature,
                power=use.power,
                numa=each.numa,
                task=devices.get(each.uuid),
                external=use.external,
                lost=use.lost,
                mig=each.mig,
                parent=each.parent,
                processes=[
                    GpuProcessView(pid=run.pid, user=run.user, memory=run.memory, task=run.task)
                    for run in use.processes
                ],
            )
        )
    return shown


def _usage(known: Known) -> UsageView | None:
    use = known.usage
    if use is None:
        return None
    return UsageView(
        cpu_percent=use.cpu_percent,
        load=use.load,
        memory_used=use.memory_used,
        disk_free=use.disk_free,
        temperature=use.temperature,
    )
