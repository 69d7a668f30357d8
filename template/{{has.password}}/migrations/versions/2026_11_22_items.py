"""items"""

import sqlalchemy as sa
from alembic import op

revision = "items"
down_revision = "users"


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("owner_id", sa.Uuid, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name=op.f("fk_items_owner_id_users"), ondelete="CASCADE"
        ),
    )
    # The order of a user's pages.
    op.create_index(op.f("ix_items_owner_id"), "items", ["owner_id", "id"])


def downgrade() -> None:
    op.drop_table("items")
