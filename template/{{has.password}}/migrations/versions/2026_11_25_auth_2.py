"""one row per login session"""

import sqlalchemy as sa
from alembic import op

revision = "auth_2"
down_revision = "users"


def upgrade() -> None:
    op.add_column("user_sessions", sa.Column("family_hash", sa.LargeBinary))
    op.add_column("user_sessions", sa.Column("token_hash", sa.LargeBinary))
    op.add_column("user_sessions", sa.Column("user_agent", sa.String(200)))
    # The refresh token of an existing session remains valid: it becomes the first part of the next
    # ones, and its own second part is empty.
    op.execute(
        """
        UPDATE user_sessions
        SET family_hash = refresh_tokens.token_hash, token_hash = sha256(''), user_agent = ''
        FROM refresh_tokens
        WHERE refresh_tokens.session_id = user_sessions.id AND refresh_tokens.used_at IS NULL
        """
    )
    op.drop_table("refresh_tokens")
    op.execute("DELETE FROM user_sessions WHERE family_hash IS NULL")
    for column in ("family_hash", "token_hash", "user_agent"):
        op.alter_column("user_sessions", column, nullable=False)
    op.create_unique_constraint(
        op.f("uq_user_sessions_family_hash"), "user_sessions", ["family_hash"]
    )


def downgrade() -> None:
    # A hash gives no token back, so everybody has to log in again.
    op.execute("DELETE FROM user_sessions")
    op.drop_constraint(op.f("uq_user_sessions_family_hash"), "user_sessions")
    for column in ("family_hash", "token_hash", "user_agent"):
        op.drop_column("user_sessions", column)
    op.create_table(
        "refresh_tokens",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("session_id", sa.Uuid, nullable=False),
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refresh_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_refresh_tokens_token_hash")),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["user_sessions.id"],
            name=op.f("fk_refresh_tokens_session_id_user_sessions"),
            ondelete="CASCADE",
        ),
    )
    op.create_index(op.f("ix_refresh_tokens_session_id"), "refresh_tokens", ["session_id"])
