"""items"""

import sqlalchemy as sa
from alembic import op

revision = "subject_items"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("owner_id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
    )
    # The order of an owner's pages.
    op.create_index(op.f("ix_items_owner_id"), "items", ["owner_id", "id"])


def downgrade() -> None:
    op.drop_table("items")
