"""What clients may ask of the host: every request body. Answers have the shapes of ``views``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from hakuriver.fields import (
    MAX_BATCH,
    AbsolutePath,
    Bytes,
    Command,
    ContainerName,
    Cores,
    Environment,
    EnvironmentName,
    ImageRef,
    Labels,
    NodeName,
    Note,
    OnNodeLoss,
    Placement,
    Runs,
    Seconds,
    Strict,
    Tag,
    TaskId,
    TaskName,
    Ulimits,
    UserSpec,
    Verb,
    Version,
)


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
