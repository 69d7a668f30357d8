"""the queue of jobs"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "jobs_1"
down_revision = None
branch_labels = ("jobs",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        sa.Column("key", sa.String(200), nullable=True),
        sa.Column("schedule", sa.String(200), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease", sa.Uuid, nullable=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("context", JSONB, nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("key", name=op.f("uq_jobs_key")),
    )
    is_pending = sa.text("failed_at IS NULL")
    op.create_index("ix_jobs_due_at", "jobs", ["due_at"], postgresql_where=is_pending)


def downgrade() -> None:
    op.drop_table("jobs")
