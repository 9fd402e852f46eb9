"""The tables of the host's database.

Times are RFC 3339 texts in UTC, cores whole millicores, memory bytes, and columns named below as JSON hold
JSON texts (SQLite builds the views from them). Wide columns stand last, so that scans don't read them.
"""

from __future__ import annotations

from sqlalchemy import ForeignKeyConstraint, Index, Table, text
from sqlmodel import Field, SQLModel


class Meta(SQLModel, table=True):
    """``cluster``, ``epoch``, ``sequence``, and what single parts of the host keep there."""

    key: str = Field(primary_key=True)
    value: str


class Credential(SQLModel, table=True):
    """Who may come in. ``source`` names the token file it was read from, empty for one that was issued."""

    sha256: str = Field(primary_key=True)
    subject: str
    kind: str
    role: str
    source: str = ""
    expires_at: str | None = None


class Node(SQLModel, table=True):
    """A machine, bound to the ``runner`` (journal identity) that registered it. ``facts`` is JSON, ``lease``
    (seconds) the longest that it was promised since it booted."""

    name: str = Field(primary_key=True)
    runner: str
    address: str
    state: str
    reason: str = ""
    drained: bool = False
    drain_reason: str | None = None
    registered_at: str
    seen_at: str | None = None
    facts: str
    lease: float = Field(default=60.0, sa_column_kwargs={"server_default": "60"})


class Task(SQLModel, table=True):
    """What was asked for. ``state`` repeats the one of attempt number ``attempt``, the current one."""

    __table_args__ = (
        Index("task_state_id", "state", "id"),
        Index("task_owner_id", "owner", "id"),
        Index("task_batch_id", "batch", "id"),
        Index("task_name_id", "name", "id", sqlite_where=text("name IS NOT NULL")),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    batch: int
    kind: str
    backend: str = "native"
    state: str
    attempt: int = 1
    name: str | None = None
    owner: str
    machine: str = ""
    target: str | None = None
    target_node: str | None = None
    target_numa: int | None = None
    target_gpus: str = "[]"  # JSON
    cores: int
    memory: int
    executor: str
    container: str | None = None
    image: str | None = None
    privileged: bool | None = None
    stdin: bool = False
    created_at: str
    workdir: str | None = None
    tags: str = "[]"  # JSON
    command: str  # JSON
    mounts: str | None = None  # JSON
    env: str = "{}"  # JSON
    on_node_loss: str = Field(default="keep", sa_column_kwargs={"server_default": "keep"})
    priority: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    time_limit: float | None = None
    retries: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    retried: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    batch_index: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    batch_size: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    max_running: int | None = None
    after: str = Field(default="[]", sa_column_kwargs={"server_default": "[]"})  # JSON
    wants: str = Field(default="{}", sa_column_kwargs={"server_default": "{}"})  # JSON: views.TaskWants


class TaskAfter(SQLModel, table=True):
    """A task that must complete before another may start, and hasn't ended yet."""

    __tablename__ = "task_after"

    needs: int = Field(primary_key=True, foreign_key="task.id", ondelete="CASCADE")
    task: int = Field(primary_key=True, foreign_key="task.id", ondelete="CASCADE", index=True)


class TaskTag(SQLModel, table=True):
    """One tag of a task, for lists by tag."""

    __tablename__ = "task_tag"
    __table_args__ = (Index("task_tag_task", "task"),)

    tag: str = Field(primary_key=True)
    task: int = Field(primary_key=True, foreign_key="task.id", ondelete="CASCADE")


class Attempt(SQLModel, table=True):
    """One try at a task, on at most one node.

    ``acked`` is the journal version that the node answered the order with. An intent has a version; ``sent``
    is the newest that the node acknowledged, ``done`` the newest that it carried out. ``held_*`` is a kill
    that can still be taken back. ``fence``: the node's last heartbeat said that its fence was alive.
    ``hold_by``: who makes it wait until somebody releases it. ``version`` is that of its environment, decided
    when it was assigned, ``image_digest`` what it really ran in. ``told_at``: when its node told of its end,
    by the clock of the host; ``started_at`` and ``ended_at`` are by that of the node.
    """

    __table_args__ = (Index("attempt_node_state", "node", "state"),)

    task: int = Field(primary_key=True, foreign_key="task.id", ondelete="CASCADE")
    number: int = Field(primary_key=True)
    state: str
    reason: str = ""
    node: str | None = None
    executor: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    oom_events: int = 0
    assigned_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    report_sequence: int = 0
    acked: int | None = None
    intent: str = "run"
    intent_version: int = 0
    intent_sent: int = 0
    intent_done: int = 0
    intent_by: str | None = None
    intent_grace: float | None = None
    held_due_at: str | None = None
    held_by: str | None = None
    held_grace: float | None = None
    fence: bool = Field(default=False, sa_column_kwargs={"server_default": "0"})
    hold_by: str | None = None
    version: int | None = None
    image_digest: str | None = None
    told_at: str | None = None


class Allocation(SQLModel, table=True):
    """What an attempt was given; it holds it while its state is one of ``lifecycle.ON_NODE``.

    ``device_ids`` (JSON) are opaque, ``gpus`` (JSON) the indices that people see.
    """

    __table_args__ = (
        ForeignKeyConstraint(["task", "attempt"], ["attempt.task", "attempt.number"], ondelete="CASCADE"),
        Index("allocation_attempt", "task", "attempt"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    task: int
    attempt: int
    node: str
    numa: int | None = None
    cores: int
    memory: int
    device_ids: str = "[]"  # JSON
    gpus: str = "[]"  # JSON


class Environment(SQLModel, table=True):
    """A container that people customise, and what tasks get of it.

    ``base`` is the image it was made of, ``current`` NULL before the first version. ``last_version`` only
    grows, so that no number is used twice.
    """

    name: str = Field(primary_key=True)
    base: str = ""
    current: int | None = None
    last_version: int = 0
    created_at: str
    created_by: str


class EnvironmentVersion(SQLModel, table=True):
    """A tarball of an environment; ``image`` is the id of the image in it."""

    __tablename__ = "environment_version"

    environment: str = Field(primary_key=True, foreign_key="environment.name", ondelete="CASCADE")
    version: int = Field(primary_key=True)
    size: int
    sha256: str
    image: str
    note: str = ""
    created_by: str
    created_at: str


class Idempotency(SQLModel, table=True):
    """An answered submission: the same key of the same principal gets the same answer."""

    __table_args__ = (Index("idempotency_created_at", "created_at"),)

    principal: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    digest: str
    created_at: str
    answer: str


def _table(name: str) -> Table:
    return SQLModel.metadata.tables[name]


meta = _table("meta")
credential = _table("credential")
node = _table("node")
task = _table("task")
task_tag = _table("task_tag")
task_after = _table("task_after")
attempt = _table("attempt")
allocation = _table("allocation")
idempotency = _table("idempotency")
environment = _table("environment")
environment_version = _table("environment_version")
