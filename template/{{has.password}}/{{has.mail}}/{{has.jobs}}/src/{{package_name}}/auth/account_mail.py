from typing import Annotated
from uuid import UUID

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession

from ..jobs import add
from .jobs import SendLink, SendNotice


class AccountMail:
    """Mail about accounts: a job for each one, in the transaction of what it is about."""

    async def send_notice(self, session: AsyncSession, email: str, template: str) -> None:
        await add(session, SendNotice(email=email, template=template))

    async def send_link(self, session: AsyncSession, token_id: UUID) -> None:
        await add(session, SendLink(token_id=token_id))


async def get_account_mail() -> AccountMail:
    return AccountMail()


AccountMailDep = Annotated[AccountMail, Depends(get_account_mail)]
