from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ..errors import NotFound
from ..organizations.members import Membership
from .models import Document


class DocumentService:
    """It has no condition on the organization: the policy has to hold."""

    def __init__(self, session: AsyncSession, membership: Membership) -> None:
        self._session = session
        self._organization_id = membership.organization_id

    async def list(self) -> Sequence[Document]:
        return (await self._session.scalars(select(Document).order_by(Document.id))).all()

    async def get(self, document_id: UUID) -> Document:
        document = await self._session.get(Document, document_id)
        if document is None:
            raise NotFound
        return document

    async def create(self, name: str) -> Document:
        document = Document(organization_id=self._organization_id, name=name)
        self._session.add(document)
        await self._session.flush()
        return document
