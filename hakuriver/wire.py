"""What daemons accept: every request body of both APIs, validated at the edge.

Answers have the shapes of ``views``; runner and host answer each other with the small types below.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from hakuriver import environments
from hakuriver.environments import MAX_VERSION
from hakuriver.errors import UsageError
from hakuriver.lifecycle import Intent, State
from hakuriver.target import NODE_NAME
from hakuriver.units import MAX_CORES, MAX_SIZE, check_ulimit

MAX_ARGUMENTS = 65_536
MAX_ARGUMENT = 128 * 1024  # the kernel's own limit on one argument
MAX_BATCH = 10_000


class Strict(BaseModel):
    """Unknown fields are errors: a typo must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a NUL byte")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode") from None
    return text


def _node_name(text: str) -> str:
    if not NODE_NAME.match(text):
        raise ValueError("is not a node name")
    return text


def _env_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("is not the name of an environment variable")
    if text.startswith("HAKURIVER_"):
        raise ValueError("HAKURIVER_* variables are set by HakuRiver itself")
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/") or ".." in text.split("/"):
        raise ValueError("must be an absolute path without '..'")
    return text


def _ulimits(given: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    try:
        for name, (soft, hard) in given.items():
            check_ulimit(name, soft, hard)
    except UsageError as error:
        raise ValueError(error.message) from None
    return given


def _environment(text: str) -> str:
    try:
        return environments.check_name(text)
    except UsageError as error:
        raise ValueError(error.message) from None


def _container(text: str) -> str:
    try:
        return text if text == environments.NATIVE else str(environments.parse_reference(text))
    except UsageError as error:
        raise ValueError(error.message) from None


_PART = environments.NAME_PATTERN
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_IMAGE = re.compile(
    rf"(?:{_LABEL}(?:\.{_LABEL})*(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?|sha256:[0-9a-f]{12,64}"
)


def _image(text: str) -> str:
    """Nothing else: it becomes a part of an address of the engine's API."""
    if not _IMAGE.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not the name of an image")
    return text


Text = Annotated[str, AfterValidator(_no_nul)]
Argument = Annotated[str, StringConstraints(max_length=MAX_ARGUMENT), AfterValidator(_no_nul)]
Command = Annotated[list[Argument], Field(min_length=1, max_length=MAX_ARGUMENTS)]
NodeName = Annotated[str, AfterValidator(_node_name)]
EnvName = Annotated[str, StringConstraints(max_length=256), AfterValidator(_env_name)]
AbsolutePath = Annotated[
    str, StringConstraints(max_length=4096), AfterValidator(_no_nul), AfterValidator(_absolute)
]
TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9._-]{0,62}$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:=-]{0,62}$")]
ImageRef = Annotated[str, StringConstraints(max_length=255), AfterValidator(_image)]
"""``[HOST[:PORT]/]NAME[:TAG][@DIGEST]`` as registries have it, or an image's id."""
ContainerName = Annotated[str, StringConstraints(max_length=80), AfterValidator(_container)]
"""``ENV``, ``ENV@VERSION`` or ``NULL``."""
EnvironmentName = Annotated[str, AfterValidator(_environment)]
UserSpec = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10})(:([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10}))?$"
    ),
]
"""``USER[:GROUP]``, names of the image or numbers."""
Version = Annotated[int, Field(ge=0, lt=MAX_VERSION)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Note = Annotated[str, StringConstraints(max_length=400), AfterValidator(_no_nul)]
Environment = Annotated[dict[EnvName, Argument], Field(max_length=1024)]
Cores = Annotated[float, Field(ge=0, le=MAX_CORES)]
Bytes = Annotated[int, Field(ge=0, le=MAX_SIZE)]
Executor = Literal["process", "docker", "systemd"]
Runs = Literal["process", "docker", "systemd", "native"]
"""How a task may be asked to run: ``native`` is systemd where a node can, else process."""
Stream = Literal["stdout", "stderr"]
OnNodeLoss = Literal["keep", "requeue", "fail"]
Verb = Literal["kill", "unkill", "pause", "resume", "hold", "release"]
Placement = Literal["pack", "spread", "round-robin"]
Seconds = Annotated[float, Field(gt=0, le=10 * 366 * 86400)]
TaskId = Annotated[int, Field(ge=1, lt=2**63)]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/-]{0,63}$")]
Labels = Annotated[dict[Label, LabelValue], Field(max_length=64)]
Ulimit = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,12}$")]
Ulimits = Annotated[
    dict[Ulimit, tuple[Annotated[int, Field(ge=-1, lt=2**63)], Annotated[int, Field(ge=-1, lt=2**63)]]],
    Field(max_length=16),
    AfterValidator(_ulimits),
]
"""Name → (soft, hard); -1 is unlimited."""


class Mount(Strict):
    """A folder or file of the node, seen inside a container."""

    source: AbsolutePath
    target: AbsolutePath
    read_only: bool = False


class Caller(Strict):
    """Where a submission comes from.

    The variables are used only where tasks run like commands typed there (embedded). ``workdir_typed``: the
    folder was asked for, so it must be one that the task can see. ``user`` is whom containers run as where
    ``[docker] task_user`` says so: a courtesy, not a proof.
    """

    workdir: AbsolutePath | None = None
    workdir_typed: bool = False
    env: Environment = Field(default_factory=dict)
    user: UserSpec | None = None


class Notice(Strict):
    """A signal that a task gets ``seconds`` before its time limit is over."""

    signal: Literal[1, 2, 10, 12, 15] = 10
    seconds: Seconds


class SubmitRequest(Strict):
    """``POST /api/tasks``: one command, to each of ``targets`` (empty = the scheduler picks one place)."""

    command: Command
    targets: Annotated[
        list[Annotated[str, StringConstraints(max_length=400)]], Field(max_length=MAX_BATCH)
    ] = []
    cores: Cores = 1
    memory: Bytes = 0  # 0 = no cap and nothing reserved
    env: Environment = Field(default_factory=dict)
    container: ContainerName | None = None
    image: ImageRef | None = None
    executor: Runs | None = None
    mounts: Annotated[list[Mount], Field(max_length=64)] | None = None  # null = the node's additional_mounts
    privileged: bool | None = None
    private_network: bool = False
    private_pid: bool = False
    workdir: AbsolutePath | None = None
    name: TaskName | None = None
    tags: Annotated[list[Tag], Field(max_length=32)] = []
    stdin: bool = False
    on_node_loss: OnNodeLoss = "keep"
    gpu_count: Annotated[int, Field(ge=0, le=1024)] = 0  # the scheduler picks them; not with GPUs in a target
    gpu_model: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = (
        None  # part of a model's name
    )
    gpu_memory: Bytes = 0  # what each GPU must have in all
    labels: Labels = Field(default_factory=dict)  # of the nodes that will do
    placement: Placement | None = None  # null = pack with GPUs, else spread
    pin: bool = False  # cores of its own; whole ones
    shm_size: Bytes | None = None
    ulimits: Ulimits = Field(default_factory=dict)
    user: UserSpec | None = None  # in a container
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0  # higher goes first
    time_limit: Seconds | None = None  # of running, without pauses
    notice: Notice | None = None
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    after: Annotated[list[TaskId], Field(max_length=1000)] = []  # tasks that must have completed first
    hold: bool = False  # waits until somebody releases it
    sweep: bool = False  # ``span:`` in the command makes a task for each combination
    max_running: Annotated[int, Field(ge=1)] | None = None  # of this batch at a time
    caller: Caller = Field(default_factory=Caller)


class KillRequest(Strict):
    """``POST /api/tasks/{id}/kill``: ``grace`` seconds between TERM and KILL, after ``delay`` seconds in
    which it can be taken back."""

    grace: Annotated[float, Field(ge=0, le=3600)] | None = None
    delay: Annotated[float, Field(ge=0, le=60)] = 0


class IntentsRequest(KillRequest):
    """``POST /api/tasks/intents``: the same for many tasks at once; ``grace`` and ``delay`` are a kill's."""

    verb: Verb
    tasks: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1, max_length=1000)]


class DrainRequest(Strict):
    """``POST /api/nodes/{name}/drain``: nothing new is placed there; what runs goes on."""

    reason: Note = ""


class RemoveRequest(Strict):
    """``POST /api/nodes/{name}/remove``: forget a node; ``force``: its live tasks are lost then."""

    force: bool = False


class TasksRequest(Strict):
    """``POST /api/tasks/show``: which tasks."""

    tasks: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1, max_length=1000)]


class RequeueRequest(Strict):
    """``POST /api/tasks/{id}/requeue``: ``force`` also where nobody can tell whether it still runs."""

    force: bool = False


class SignalRequest(Strict):
    """A signal for a running task: the ones that people send by hand."""

    signal: Literal[1, 2, 3, 10, 12, 15, 28]


class EnvironmentRef(Strict):
    """A version of an environment, as the host resolved it: what the tarball must be, and the image in it.

    ``image`` is the id that the image has in the host's engine (and in most others).
    """

    name: EnvironmentName
    version: Version
    sha256: Sha256
    size: Bytes
    image: Text


class CreateEnvironment(Strict):
    """``POST /api/environments``: a container from an image; without one from its current version."""

    name: EnvironmentName
    image: ImageRef | None = None


class AdoptContainer(Strict):
    """``POST /api/environments/{name}/adopt``: an environment like a container on the host."""

    container: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$")]


class PackRequest(Strict):
    """``POST /api/environments/{name}/pack``: its container as a new version."""

    note: Note = ""


class RollbackRequest(Strict):
    """``POST /api/environments/{name}/rollback``: make a version the current one; null = the one before."""

    version: Version | None = None


class PrefetchRequest(Strict):
    """``POST /api/environments/{name}/prefetch``: load a version on nodes now; none named = on all online."""

    nodes: Annotated[list[NodeName], Field(max_length=1000)] = []
    version: Version | None = None


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


def clear_message(errors: list[Any]) -> str:
    """One line for what pydantic found: the first error, where it is, and how many more."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]") or "body"
    text = str(first["msg"]).removeprefix("Value error, ").replace(" after validation", "")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where}: {text}{more}"
