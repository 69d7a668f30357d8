from typing import Annotated
from uuid import UUID

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession

from ..jobs import add
from .jobs import SendInvitation


class InvitationMail:
    """Sends invitations by jobs, in the transaction that adds them."""

    async def send(self, session: AsyncSession, invitation_id: UUID) -> None:
        await add(session, SendInvitation(invitation_id=invitation_id))


async def get_invitation_mail() -> InvitationMail:
    return InvitationMail()


InvitationMailDep = Annotated[InvitationMail, Depends(get_invitation_mail)]
