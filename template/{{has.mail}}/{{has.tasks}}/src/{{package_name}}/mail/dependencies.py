from collections.abc import Sequence
from email.message import EmailMessage
from typing import Annotated

import structlog
from fastapi import BackgroundTasks, Depends

from .service import Mail, MailNotSent
from .state import MailConnection

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class MailAfterResponse(Mail):
    """Sends when the request has succeeded, after its response.

    The message is rendered at once, so an invalid address fails the request. A message that cannot
    be sent later is a line in the log.
    """

    def __init__(self, mail: Mail, tasks: BackgroundTasks) -> None:
        super().__init__(mail.sender, mail.transport, mail.templates)
        self._tasks = tasks

    async def send(self, recipients: str | Sequence[str], template: str, **values: object) -> None:
        message = self.make_message(recipients, template, values)
        self._tasks.add_task(self._send_logged, message, template)

    async def _send_logged(self, message: EmailMessage, template: str) -> None:
        try:
            await self.transport(message)
        except MailNotSent as error:
            logger.error("mail not sent", template=template, cause=str(error))


async def get_mail(connection: MailConnection, tasks: BackgroundTasks) -> Mail:
    if connection["type"] == "websocket":
        raise TypeError('A WebSocket has no MailDep. Use `websocket.state["mail"]`.')
    return MailAfterResponse(connection.state["mail"], tasks)


MailDep = Annotated[Mail, Depends(get_mail)]
