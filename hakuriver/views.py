"""What clients read: the shapes of every answer and of the watch stream. Fields are only ever added.

Memory in bytes, times RFC 3339 in UTC (``2026-01-31T12:00:00.123Z``), ``null`` where unknown.
TypedDicts, so that a CLI call needs no validation library; the host builds nothing else.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class AttemptView(TypedDict):
    """One attempt of a task."""

    attempt: int
    state: str
    reason: str
    node: str | None
    executor: str | None
    version: int | None  # of its environment
    image_digest: str | None  # of the image that it ran in: the registry's digest, else the image's id
    exit_code: int | None
    signal: int | None
    error: str | None
    oom_events: int
    assigned_at: str | None
    started_at: str | None
    ended_at: str | None


class TaskWants(TypedDict, total=False):
    """What else a task was asked to have; only what differs from the default is there."""

    gpu_count: int
    gpu_model: str
    gpu_memory: int
    labels: dict[str, str]
    placement: str
    pin: bool
    shm_size: int
    ulimits: dict[str, list[int]]
    user: str
    notice: dict[str, Any]  # signal, seconds
    private_network: bool
    private_pid: bool


class TaskView(TypedDict):
    """A task as its current attempt stands."""

    id: int
    batch: int
    kind: Literal["command", "vps"]
    name: str | None
    tags: list[str]
    owner: str
    state: str
    reason: str
    command: list[str]
    target: str | None  # as asked for; null = anywhere
    node: str | None
    numa: int | None
    gpus: list[int]
    gpu_uuids: list[str]
    cores: float
    memory: int
    on_node_loss: str  # "keep" | "requeue" | "fail"
    priority: int
    time_limit: float | None  # seconds
    retries: int  # new attempts it may have after a failure
    retried: int
    after: list[int]  # tasks that must have completed before it starts
    on_hold: bool
    batch_index: int
    batch_size: int
    max_running: int | None  # of its batch at a time
    wants: TaskWants
    executor: str | None
    container: str | None
    image: str | None
    version: int | None  # of the environment, as it was resolved for the current attempt
    image_digest: str | None  # of the image that the attempt ran in: the registry's, else the image's id
    workdir: str | None
    attempt: int
    exit_code: int | None
    signal: int | None
    error: str | None
    oom_events: int
    intent: str | None  # "kill" | "pause" | "resume" that the node has not carried out yet
    intent_by: str | None
    intent_due_at: str | None  # a kill that is still held and can be taken back
    created_at: str
    assigned_at: str | None
    started_at: str | None
    ended_at: str | None
    attempts: NotRequired[list[AttemptView]]  # only where one task is shown


class WorkView(TypedDict):
    """What is being done to an environment now. ``total`` and ``speed`` (bytes/s) where they are known."""

    kind: Literal["create", "pull", "pack", "import", "adopt", "load"]
    by: str
    since: str
    text: str  # what it is at
    done: int
    total: int | None
    speed: float | None


class EnvironmentView(TypedDict):
    """An environment: its container on the host, and what it was packed to."""

    name: str
    base: str  # the image it was made from
    container: Literal["running", "stopped", "missing", "unknown"]
    current: int | None  # the version that tasks get
    versions: int
    size: int  # bytes of all its tarballs
    problem: str  # why it can't be used as it should be, and what to do; empty when all is well
    work: WorkView | None
    created_at: str
    created_by: str


class VersionView(TypedDict):
    """One version of an environment; ``version`` is the unix time in its file's name."""

    environment: str
    version: int
    size: int
    sha256: str
    image: str
    note: str
    by: str
    created_at: str
    current: bool
    tasks: list[int]  # live tasks that need it; it can't be removed meanwhile


class WorkLine(TypedDict):
    """One line of the answer to what takes long (create, adopt, pack, import, prefetch).

    Many ``progress``, then one ``done`` or ``error``; where it is done on several nodes, of each. It goes on
    when nobody reads.
    """

    type: Literal["progress", "done", "error"]
    node: NotRequired[str]
    work: NotRequired[WorkView]
    environment: NotRequired[EnvironmentView]
    version: NotRequired[VersionView]
    warning: NotRequired[str]
    error: NotRequired[dict[str, Any]]  # code, message, hint, status (HTTP)


class NumaView(TypedDict):
    """One NUMA node of a machine."""

    id: int
    cpus: list[int]
    memory: int
    memory_free: int | None
    distances: list[int]  # to every NUMA node, in the order in which they are listed


class GpuProcessView(TypedDict):
    """A process that computes on a GPU; ``task`` when it is one of ours."""

    pid: int
    user: str | None
    memory: int | None
    task: int | None


class GpuView(TypedDict):
    """One GPU, or one MIG instance (``parent`` is the UUID of its GPU, which has ``mig`` and takes no task
    itself). ``task`` is ours on it, ``external`` says that somebody else's process is, ``lost`` why it can't
    be used."""

    index: int
    uuid: str
    model: str
    memory: int
    memory_used: int | None
    utilization: float | None
    temperature: float | None
    power: float | None
    numa: int | None
    task: int | None
    external: bool
    lost: str | None
    mig: bool
    parent: str | None
    processes: list[GpuProcessView]


class CpuView(TypedDict):
    """The processors of a machine; ``threads`` is what the kernel calls CPUs."""

    model: str
    sockets: int
    cores: int
    threads: int


class UsageView(TypedDict):
    """A node's last measured use; never what was allocated."""

    cpu_percent: float
    load: float
    memory_used: int
    disk_free: int | None
    temperature: float | None


class NodeView(TypedDict):
    """A node as the host knows it."""

    name: str
    state: str
    reason: str
    address: str
    cores: float
    cores_free: float
    memory: int
    memory_free: int
    numa: list[NumaView]
    gpus: list[GpuView]
    executors: list[str]
    unavailable: dict[str, str]  # executor or "gpu" → why it can't be used there
    cpu: CpuView | None
    engines: dict[str, str]  # what starts tasks there → its version and what it can
    labels: dict[str, str]
    drained: bool
    drain_reason: str | None
    usage: UsageView | None
    tasks: int  # attempts it holds now
    version: str
    boot_id: str
    registered_at: str
    seen_at: str | None


class ClusterView(TypedDict):
    """Which cluster answers."""

    cluster: str
    epoch: int
    version: str
    wire: int
    embedded: bool
    subject: str  # who the caller is
    cursor: str


class NodeReason(TypedDict):
    """Whether a waiting task could go to a node now, or what it would take."""

    node: str
    fits: bool
    why: str
    tasks: list[int]  # whose ends would make the room, in the order in which they are expected
    at: str | None  # when that is expected; null where a task there has no time limit


class ExplainView(TypedDict):
    """Why a task waits and what would let it go."""

    id: int
    state: str
    reason: str
    ahead: int  # waiting tasks that come before it
    reserved: str | None  # the node that keeps room for it
    reserved_at: str | None  # when that is expected to be enough
    nodes: list[NodeReason]


class BatchView(TypedDict):
    """A batch in one line."""

    batch: int
    size: int
    states: dict[str, int]  # how many are in each state
    max_running: int | None


class SubmitRefusal(TypedDict):
    """A target that was refused; the others were still submitted."""

    target: str
    error: dict[str, Any]  # code, message, hint, exit_code


class SubmitView(TypedDict):
    """Answer of a submission."""

    batch: int | None
    tasks: list[TaskView]
    refused: list[SubmitRefusal]
    warnings: list[str]


class IntentRefusal(TypedDict):
    """A task that was not told or shown; ``status`` is what a request for it alone is answered with."""

    id: int
    status: int
    error: dict[str, Any]  # code, message, hint


class IntentsView(TypedDict):
    """What became of a request for many tasks, in its order."""

    items: list[TaskView]
    refused: list[IntentRefusal]


class TaskPage(TypedDict):
    """One page of tasks; ``next`` is the cursor of the following one, null on the last."""

    items: list[TaskView]
    next: str | None


class WatchLine(TypedDict):
    """One line of ``GET /api/watch``.

    ``snapshot``: replaces everything the client holds (``nodes``, ``tasks``, ``cluster``, ``environments``).
    ``task`` and ``node``: the object as it is now; ``environments``: all of them. ``deleted``: ``task`` id or
    ``node`` name is gone. ``alive``: nothing
    happened. Every line has the cursor to continue from.
    """

    type: Literal["snapshot", "task", "node", "environments", "deleted", "alive"]
    cursor: str
    cluster: NotRequired[ClusterView]
    nodes: NotRequired[list[NodeView]]
    tasks: NotRequired[list[TaskView]]
    environments: NotRequired[list[EnvironmentView]]
    task: NotRequired[TaskView]
    node: NotRequired[NodeView]
    id: NotRequired[int]
    name: NotRequired[str]


class StdinView(TypedDict):
    """Answer of a feed to standard input: the offset that is wanted next."""

    offset: int
