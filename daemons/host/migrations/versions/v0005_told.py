"""When the host heard of an end, by its own clock: that of a node may be wrong."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempt", sa.Column("told_at", sa.String(), nullable=True))
