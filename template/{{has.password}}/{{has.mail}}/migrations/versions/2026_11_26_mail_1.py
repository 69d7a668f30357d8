"""tokens that are sent by mail"""

import sqlalchemy as sa
from alembic import op

revision = "mail_1"
down_revision = None
branch_labels = ("mail",)
depends_on = ("users",)


def upgrade() -> None:
    op.create_table(
        "email_tokens",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("purpose", sa.String(20), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=True),
        sa.Column("password_hash", sa.String(200), nullable=False),
        sa.Column("token_hash", sa.LargeBinary, nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_email_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_email_tokens_token_hash")),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
            name=op.f("fk_email_tokens_user_id_users"),
            ondelete="CASCADE",
        ),
    )
    for column in ("email", "user_id", "expires_at"):
        op.create_index(op.f(f"ix_email_tokens_{column}"), "email_tokens", [column])


def downgrade() -> None:
    op.drop_table("email_tokens")
