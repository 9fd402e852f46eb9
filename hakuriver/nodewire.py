"""What host and runners say to each other: orders, reports, what a machine is and how busy it is."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from hakuriver.fields import (
    AbsolutePath,
    Bytes,
    Command,
    Cores,
    Environment,
    EnvironmentName,
    Executor,
    NodeName,
    Seconds,
    Sha256,
    Strict,
    Text,
    Ulimits,
    UserSpec,
    Version,
)
from hakuriver.lifecycle import Intent, State
from hakuriver.units import MAX_CORES
from hakuriver.wire import Mount, Notice


class EnvironmentRef(Strict):
    """A version of an environment, as the host resolved it: what the tarball must be, and the image in it.

    ``image`` is the id that the image has in the host's engine (and in most others).
    """

    name: EnvironmentName
    version: Version
    sha256: Sha256
    size: Bytes
    image: Text


class AttemptSpec(Strict):
    """Everything a runner must know to run one attempt. Its digest is its identity."""

    task: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=1)]
    kind: Literal["command", "vps"] = "command"
    owner: Text
    command: Command
    env: Environment = Field(default_factory=dict)
    workdir: AbsolutePath | None = None
    executor: Executor
    container: str | None = None
    image: str | None = None
    environment: EnvironmentRef | None = None  # what ``container`` means for this attempt
    cores: Cores
    memory: Bytes
    target: Text  # as HAKURIVER_TARGET shows it
    numa: int | None = None
    gpus: list[int] = []
    gpu_uuids: list[str] = []
    mounts: list[Mount] | None = None
    privileged: bool | None = None
    private_network: bool = False
    private_pid: bool = False
    shm_size: Bytes | None = None
    stdin: bool = False
    fenced: bool = False  # it ends by itself when its node hears nothing of the host for a lease
    pin: bool = False  # its cores are nobody else's
    ulimits: Ulimits = Field(default_factory=dict)
    user: UserSpec | None = None
    time_limit: Seconds | None = None
    notice: Notice | None = None
    batch_index: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1)] = 1

    def digest(self) -> str:
        """sha256 of the canonical JSON: equal exactly when two specs mean the same.

        Defaults are left out, so that a field added later doesn't change what was ordered before.
        """
        facts = self.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class IntentOrder(Strict):
    """What is wanted of an attempt. A higher version replaces a lower one; a lower one is ignored."""

    version: Annotated[int, Field(ge=0)]
    intent: Intent
    by: Text = ""
    grace: Annotated[float, Field(ge=0, le=3600)] = 10


class AttemptOrder(Strict):
    """``PUT /runner/attempts/{task}/{attempt}``: idempotent; another digest for the same pair is 409."""

    cluster: Text
    epoch: int
    digest: str
    spec: AttemptSpec
    intent: IntentOrder | None = None


class OrderAnswer(Strict):
    """The order is journaled; ``journal_version`` is at or after that write."""

    accepted: bool  # False: it was known already
    journal_version: int


class Given(Strict):
    """What an attempt was given on its node."""

    numa: int | None = None
    gpus: list[int] = []
    gpu_uuids: list[str] = []


class Report(Strict):
    """One fact about an attempt, re-sent until acknowledged, applied once and in order of ``sequence``.

    ``state`` ``pending`` means *not started and never will be under this number*. ``given`` makes it a report
    told again to a host that was restored from a backup, which may not know that the node has the attempt.
    """

    task: int
    attempt: int
    sequence: Annotated[int, Field(ge=1)]
    state: State
    at: datetime
    reason: Annotated[str, StringConstraints(max_length=4000)] = ""
    intent_version: int | None = None  # the newest intent the runner has carried out
    executor: Executor | None = None
    exit_code: int | None = None
    signal: int | None = None
    error: Annotated[str, StringConstraints(max_length=4000)] | None = None
    oom_events: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    image: Annotated[str, StringConstraints(max_length=400)] | None = None  # digest or id of what it ran in
    given: Given | None = None


class ReportBatch(Strict):
    """``POST /api/nodes/{name}/reports``."""

    runner: str
    reports: Annotated[list[Report], Field(max_length=1000)]


class ReportResult(Strict):
    """``applied`` and ``duplicate`` are acknowledgements, ``refused`` is a final one (dead letter)."""

    task: int
    attempt: int
    sequence: int
    result: Literal["applied", "duplicate", "refused"]
    message: str = ""


class ReportAnswer(Strict):
    results: list[ReportResult]


class NumaFacts(Strict):
    """A NUMA node; there are some without memory (0) or without CPUs. ``distances`` to every node, in the
    order in which the nodes are listed, 10 being its own; empty where they aren't known."""

    id: Annotated[int, Field(ge=0)]
    cpus: list[int]
    memory: Bytes
    distances: list[int] = []


class GpuFacts(Strict):
    """A GPU, or a MIG instance of one.

    ``index`` is NVML's; instance i of GPU g has 100 * (g + 1) + i. A GPU with ``mig`` is only the ``parent``
    (its UUID) of its instances: nothing can run on itself.
    """

    index: Annotated[int, Field(ge=0)]
    uuid: str
    model: str
    memory: Bytes
    numa: int | None = None
    mig: bool = False
    parent: str | None = None


class CpuFacts(Strict):
    """The processors of a machine; ``threads`` is what the kernel calls CPUs."""

    model: str
    sockets: int
    cores: int
    threads: int


class NodeFacts(Strict):
    """What a machine is. ``unavailable``: what it can't do (an executor, "gpu"), and why; ``away``: which of
    those are so only until an engine answers again; ``engines``: what starts tasks there, and its version."""

    cores: Annotated[float, Field(gt=0, le=MAX_CORES)]
    memory: Bytes
    numa: list[NumaFacts] = []
    gpus: list[GpuFacts] = []
    executors: list[Executor]
    unavailable: dict[str, str] = {}
    away: list[Executor] = []
    labels: dict[str, str] = {}
    cpu: CpuFacts | None = None
    engines: dict[str, str] = {}
    boot_id: str
    version: str


class Registration(Strict):
    """``POST /api/nodes/register``. ``runner`` is the random identity of that runner's journal, ``cluster``
    the one that the journal belongs to (empty before the first)."""

    name: NodeName
    runner: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    cluster: Text = ""
    address: Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+$")]
    facts: NodeFacts
    high_water: Annotated[int, Field(ge=0, lt=2**63)] = 0  # highest task that this journal ever saw


class RegistrationAnswer(Strict):
    cluster: str
    epoch: int
    heartbeat_interval: float
    lease: float = (
        60.0  # seconds that a fenced attempt may run after the last acknowledged heartbeat was sent
    )


class GpuProcess(Strict):
    """A process that computes on a GPU, by whom where that can be seen; ``task`` when it is one of ours."""

    pid: int
    user: str | None = None
    memory: int | None = None
    task: int | None = None


class GpuUsage(Strict):
    """A GPU as it was just measured, in bytes, percent, °C and W. ``external``: somebody computes there whom
    it wasn't given to. ``lost``: why it can't be used at all now."""

    uuid: str
    memory_used: int | None = None
    utilization: float | None = None
    temperature: float | None = None
    power: float | None = None
    external: bool = False
    lost: str | None = None
    processes: Annotated[list[GpuProcess], Field(max_length=1000)] = []


class NodeUsage(Strict):
    cpu_percent: float
    load: float
    memory_used: int
    disk_free: int | None = None
    temperature: float | None = None
    gpus: list[GpuUsage] = []


class Heartbeat(Strict):
    """``POST /api/nodes/{name}/heartbeat``.

    ``attempts`` are all without an acknowledged final report, as of ``journal_version``. The host draws no
    conclusion from a heartbeat older than the version its order was answered with. ``fences`` are the fenced
    ones whose fence was just seen to be alive. ``epoch``: the life of the cluster that the journal is in, 0
    when it doesn't say.
    """

    runner: str
    boot_id: str
    journal_version: int
    attempts: list[tuple[int, int]]
    usage: NodeUsage
    fences: list[tuple[int, int]] = []
    epoch: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Goodbye(Strict):
    """``POST /api/nodes/{name}/goodbye``."""

    runner: str


class HeartbeatAnswer(Strict):
    """``introduce`` asks the runner to introduce itself again (the host doesn't know it)."""

    epoch: int
    introduce: bool = False


class Answer(Strict):
    """An acknowledgement without content."""

    ok: Literal[True] = True
