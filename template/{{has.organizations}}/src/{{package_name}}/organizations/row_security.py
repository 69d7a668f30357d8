"""Row-level security: PostgreSQL shows and accepts only the rows of one organization.

A session with an organization in its `info` sets it at the beginning of each transaction, and until
its end, so no other request can get it with the connection, also behind PgBouncer. Without it, the
policies match no row. They are the safety net: services have a condition on the organization, too.
"""

import asyncio
from uuid import UUID

from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from ..database import Database
from ..errors import Unavailable

KEY = "organization_id"  # of `Session.info`
SET_ORGANIZATION = text("SELECT set_config('app.organization', :organization_id, true)")
CAN_BYPASS_POLICIES = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = USER")


@event.listens_for(Session, "after_begin")
def set_organization(session: Session, transaction: object, connection: Connection) -> None:
    if organization_id := session.info.get(KEY):
        connection.execute(SET_ORGANIZATION, {"organization_id": str(organization_id)})


def make_session(sessions: async_sessionmaker[AsyncSession], organization_id: UUID) -> AsyncSession:
    """Make a session that sees the rows of an organization. It needs transactions."""
    return sessions(info={KEY: organization_id})


class UnsafeRole(Unavailable):
    """The role of a pool sees the rows of all organizations."""

    detail = (
        "The role of the service must not be a superuser and not have BYPASSRLS: it would see the "
        "rows of all organizations. See docs/organizations.md."
    )


async def check_role(database: Database) -> None:
    """Raise `UnsafeRole` if policies do not hold for the role of a pool.

    Raise `Unavailable` after two seconds.
    """
    for sessions in (database.write, database.read):
        async with sessions() as session:
            connection = await session.connection()  # waiting for it does not count
            try:
                async with asyncio.timeout(2):
                    if await connection.scalar(CAN_BYPASS_POLICIES):
                        raise UnsafeRole
            except TimeoutError as error:
                raise Unavailable from error
