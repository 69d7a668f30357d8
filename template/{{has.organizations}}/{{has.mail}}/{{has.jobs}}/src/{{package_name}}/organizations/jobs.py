from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import DatabaseState
from ..jobs import job
from ..mail.jobs import ATTEMPTS
from ..mail.state import MailState
from .invitations import TEMPLATE, issue


class InvitationState(DatabaseState, MailState):
    pass


class SendInvitation(BaseModel):
    """The id of an invitation. Its token is made when it is sent."""

    invitation_id: UUID


@job(attempts=ATTEMPTS)
async def send_invitation(
    payload: SendInvitation, session: AsyncSession, state: InvitationState
) -> None:
    # A transaction of its own: no row is locked while the mail is sent.
    async with state["database"].write.begin() as transaction:
        message = await issue(transaction, payload.invitation_id)
    if message:
        await state["mail"].send(message.email, TEMPLATE, **message.values)
