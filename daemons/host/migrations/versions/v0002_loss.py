"""What becomes of tasks whose node is lost; and tags are found by their task, so that old ones go quickly."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("task_tag_task", "task_tag", ["task"])
    op.add_column("task", sa.Column("on_node_loss", sa.String(), server_default="keep", nullable=False))
    op.add_column("attempt", sa.Column("fence", sa.Boolean(), server_default="0", nullable=False))
    op.add_column("node", sa.Column("lease", sa.Float(), server_default="60", nullable=False))
