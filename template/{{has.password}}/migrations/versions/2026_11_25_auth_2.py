"""one row per login session"""

import sqlalchemy as sa
from alembic import op

revision = "auth_2"
down_revision = "users"

COLUMNS = {
    "family_hash": sa.LargeBinary,
    "token_hash": sa.LargeBinary,
    "user_agent": sa.String(200),
}


def upgrade() -> None:
    # Each step has a transaction of its own, so that requests, which read this table, wait for
    # none of them for long. After a failure, the same can be run again.
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = '3s'")
        for column, kind in COLUMNS.items():
            op.add_column("user_sessions", sa.Column(column, kind), if_not_exists=True)
        # The refresh token of an existing session remains valid: it becomes the first part of the
        # next ones, and its own second part is empty.
        op.execute(
            """
            UPDATE user_sessions
            SET family_hash = refresh_tokens.token_hash, token_hash = sha256(''), user_agent = '',
                updated_at = refresh_tokens.created_at
            FROM refresh_tokens
            WHERE refresh_tokens.session_id = user_sessions.id AND refresh_tokens.used_at IS NULL
            """
        )
    op.drop_table("refresh_tokens")
    op.execute("DELETE FROM user_sessions WHERE family_hash IS NULL")
    for column in COLUMNS:
        op.alter_column("user_sessions", column, nullable=False)
    op.create_unique_constraint(
        op.f("uq_user_sessions_family_hash"), "user_sessions", ["family_hash"]
    )
    op.execute("RESET lock_timeout")


def downgrade() -> None:
    # A hash gives no token back, so everybody has to log in again.
    op.execute("DELETE FROM user_sessions")
    op.drop_constraint(op.f("uq_user_sessions_family_hash"), "user_sessions")
    for column in COLUMNS:
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
