from email import message_from_string
from email.policy import SMTPUTF8

import structlog
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from ..jobs import job
from .service import PartlySent
from .state import MailState

ATTEMPTS = 20  # in nine hours
POLICY = SMTPUTF8.clone(linesep="\n")  # keeps addresses that are not ASCII (RFC 6531)

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class SendMail(BaseModel):
    """A message with its headers, and the name of its template."""

    template: str
    message: str


@job(attempts=ATTEMPTS)
async def send_mail(payload: SendMail, session: AsyncSession, state: MailState) -> None:
    try:
        await state["mail"].transport(message_from_string(payload.message, policy=POLICY))
    except PartlySent as error:  # another attempt would reach the others again
        logger.error("mail not sent", template=payload.template, cause=str(error))
