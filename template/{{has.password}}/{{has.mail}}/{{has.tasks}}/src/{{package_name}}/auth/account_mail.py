from typing import Annotated
from uuid import UUID

import structlog
from fastapi import BackgroundTasks, Depends
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from ..errors import AppError
from ..logs import describe
from ..mail.dependencies import MailDep
from . import email_tokens
from .state import AuthConnection

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class AccountMail:
    """Mail about accounts, which is sent after the response."""

    def __init__(self, connection: AuthConnection, mail: MailDep, tasks: BackgroundTasks) -> None:
        self._database = connection.state["database"]
        self._mail = mail
        self._tasks = tasks

    async def send_notice(self, session: AsyncSession, email: str, template: str) -> None:
        await self._mail.send(email, template)

    async def send_link(self, session: AsyncSession, token_id: UUID) -> None:
        self._tasks.add_task(self._send_link, token_id)

    async def _send_link(self, token_id: UUID) -> None:
        try:
            async with self._database.write.begin() as session:
                message = await email_tokens.issue(session, token_id)
        except (AppError, SQLAlchemyError) as error:
            logger.error("mail not sent", template=None, cause=describe(error))
            return
        if message:
            # Adds another background task.
            await self._mail.send(message.email, message.template, **message.values)


AccountMailDep = Annotated[AccountMail, Depends()]
