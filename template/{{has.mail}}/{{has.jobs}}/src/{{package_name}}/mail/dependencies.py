from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession

from ..dependencies import SessionDep
from ..jobs import add
from .jobs import POLICY, SendMail
from .service import Mail
from .state import MailConnection


class MailByJob(Mail):
    """Sends by a job, if the transaction of `session` is committed.

    The message is rendered at once, so an invalid address fails the request.
    """

    def __init__(self, mail: Mail, session: AsyncSession) -> None:
        super().__init__(mail.sender, mail.transport, mail.templates)
        self._session = session

    async def send(self, recipients: str | Sequence[str], template: str, **values: object) -> None:
        message = self.make_message(recipients, template, values).as_string(policy=POLICY)
        await add(self._session, SendMail(template=template, message=message))


async def get_mail(connection: MailConnection, session: SessionDep) -> Mail:
    return MailByJob(connection.state["mail"], session)


MailDep = Annotated[Mail, Depends(get_mail)]
