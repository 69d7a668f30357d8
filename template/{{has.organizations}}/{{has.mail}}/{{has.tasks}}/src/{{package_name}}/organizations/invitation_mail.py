from typing import Annotated
from uuid import UUID

import structlog
from fastapi import BackgroundTasks, Depends
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from ..dependencies import DatabaseDep
from ..errors import AppError
from ..logs import describe
from ..mail.dependencies import MailDep
from .invitations import TEMPLATE, issue

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class InvitationMail:
    """Sends invitations after the response."""

    def __init__(self, database: DatabaseDep, mail: MailDep, tasks: BackgroundTasks) -> None:
        self._database = database
        self._mail = mail
        self._tasks = tasks

    async def send(self, session: AsyncSession, invitation_id: UUID) -> None:
        self._tasks.add_task(self._send, invitation_id)

    async def _send(self, invitation_id: UUID) -> None:
        try:
            async with self._database.write.begin() as session:
                message = await issue(session, invitation_id)
        except (AppError, SQLAlchemyError) as error:
            logger.error("mail not sent", template=TEMPLATE, cause=describe(error))
            return
        if message:
            # Adds another background task.
            await self._mail.send(message.email, TEMPLATE, **message.values)


InvitationMailDep = Annotated[InvitationMail, Depends()]
