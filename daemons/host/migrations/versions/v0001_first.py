"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "credential",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("expires_at", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "idempotency",
        sa.Column("principal", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("answer", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("principal", "key"),
    )
    op.create_index("idempotency_created_at", "idempotency", ["created_at"])
    op.create_table(
        "meta",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "node",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("runner", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("drained", sa.Boolean(), nullable=False),
        sa.Column("drain_reason", sa.String(), nullable=True),
        sa.Column("registered_at", sa.String(), nullable=False),
        sa.Column("seen_at", sa.String(), nullable=True),
        sa.Column("facts", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "task",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("machine", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=True),
        sa.Column("target_node", sa.String(), nullable=True),
        sa.Column("target_numa", sa.Integer(), nullable=True),
        sa.Column("target_gpus", sa.String(), nullable=False),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("memory", sa.Integer(), nullable=False),
        sa.Column("executor", sa.String(), nullable=False),
        sa.Column("container", sa.String(), nullable=True),
        sa.Column("image", sa.String(), nullable=True),
        sa.Column("privileged", sa.Boolean(), nullable=True),
        sa.Column("stdin", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("workdir", sa.String(), nullable=True),
        sa.Column("tags", sa.String(), nullable=False),
        sa.Column("command", sa.String(), nullable=False),
        sa.Column("mounts", sa.String(), nullable=True),
        sa.Column("env", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("task_batch_id", "task", ["batch", "id"])
    op.create_index("task_name_id", "task", ["name", "id"], sqlite_where=sa.text("name IS NOT NULL"))
    op.create_index("task_owner_id", "task", ["owner", "id"])
    op.create_index("task_state_id", "task", ["state", "id"])
    op.create_table(
        "attempt",
        sa.Column("task", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=True),
        sa.Column("executor", sa.String(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("oom_events", sa.Integer(), nullable=False),
        sa.Column("assigned_at", sa.String(), nullable=True),
        sa.Column("started_at", sa.String(), nullable=True),
        sa.Column("ended_at", sa.String(), nullable=True),
        sa.Column("report_sequence", sa.Integer(), nullable=False),
        sa.Column("acked", sa.Integer(), nullable=True),
        sa.Column("intent", sa.String(), nullable=False),
        sa.Column("intent_version", sa.Integer(), nullable=False),
        sa.Column("intent_sent", sa.Integer(), nullable=False),
        sa.Column("intent_done", sa.Integer(), nullable=False),
        sa.Column("intent_by", sa.String(), nullable=True),
        sa.Column("intent_grace", sa.Float(), nullable=True),
        sa.Column("held_due_at", sa.String(), nullable=True),
        sa.Column("held_by", sa.String(), nullable=True),
        sa.Column("held_grace", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["task"], ["task.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task", "number"),
    )
    op.create_index("attempt_node_state", "attempt", ["node", "state"])
    op.create_table(
        "task_tag",
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("task", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["task"], ["task.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tag", "task"),
    )
    op.create_table(
        "allocation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("numa", sa.Integer(), nullable=True),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("memory", sa.Integer(), nullable=False),
        sa.Column("device_ids", sa.String(), nullable=False),
        sa.Column("gpus", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["task", "attempt"], ["attempt.task", "attempt.number"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("allocation_attempt", "allocation", ["task", "attempt"])
