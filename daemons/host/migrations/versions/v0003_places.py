"""What tasks may ask of places, time and each other."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, kind, default in (
        ("priority", sa.Integer(), "0"),
        ("retries", sa.Integer(), "0"),
        ("retried", sa.Integer(), "0"),
        ("batch_index", sa.Integer(), "0"),
        ("batch_size", sa.Integer(), "1"),
        ("after", sa.String(), "[]"),
        ("wants", sa.String(), "{}"),
    ):
        op.add_column("task", sa.Column(name, kind, server_default=default, nullable=False))
    op.add_column("task", sa.Column("time_limit", sa.Float(), nullable=True))
    op.add_column("task", sa.Column("max_running", sa.Integer(), nullable=True))
    op.add_column("attempt", sa.Column("hold_by", sa.String(), nullable=True))
    op.create_table(
        "task_after",
        sa.Column("needs", sa.Integer(), sa.ForeignKey("task.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("task", sa.Integer(), sa.ForeignKey("task.id", ondelete="CASCADE"), primary_key=True),
    )
    op.create_index("ix_task_after_task", "task_after", ["task"])
