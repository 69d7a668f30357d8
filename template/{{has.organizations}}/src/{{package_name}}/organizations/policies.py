"""Policies of tables whose rows belong to an organization, for migrations."""

from collections.abc import Generator
from contextlib import contextmanager

from alembic import op

CONDITION = "organization_id = (SELECT nullif(current_setting('app.organization', true), '')::uuid)"


def protect(table: str) -> None:
    """Show and accept only rows of the current organization, also for the owner of the table."""
    change(table, "ENABLE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY organization ON {quote(table)} USING ({CONDITION})")


def unprotect(table: str) -> None:
    op.execute(f"DROP POLICY organization ON {quote(table)}")
    change(table, "NO FORCE ROW LEVEL SECURITY", "DISABLE ROW LEVEL SECURITY")


@contextmanager
def seeing_all_rows(table: str) -> Generator[None]:
    """Let a data migration read and write rows of all organizations."""
    change(table, "NO FORCE ROW LEVEL SECURITY")
    yield
    change(table, "FORCE ROW LEVEL SECURITY")


def change(table: str, *actions: str) -> None:
    op.execute(f"ALTER TABLE {quote(table)} {', '.join(actions)}")


def quote(table: str) -> str:
    return op.get_context().dialect.identifier_preparer.quote(table)
