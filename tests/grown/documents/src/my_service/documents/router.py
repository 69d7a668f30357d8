from typing import Annotated
from uuid import UUID

from fastapi import Depends
from pydantic import BaseModel, ConfigDict

from ..organizations.dependencies import (
    CurrentOrganization,
    OrganizationSessionDep,
    RequireOrganizationRole,
)
from ..routing import Router
from .models import Document
from .service import DocumentService

router = Router(prefix="/organizations/{organization_id}/documents", tags=["documents"])


class DocumentCreate(BaseModel):
    name: str


class DocumentRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str


class DocumentList(BaseModel):
    items: list[DocumentRead]


async def get_documents(
    session: OrganizationSessionDep, membership: CurrentOrganization
) -> DocumentService:
    return DocumentService(session, membership)


DocumentsDep = Annotated[DocumentService, Depends(get_documents)]


@router.get("")
async def list_documents(documents: DocumentsDep) -> DocumentList:
    return DocumentList.model_validate({"items": await documents.list()}, from_attributes=True)


@router.get("/{document_id}", response_model=DocumentRead)
async def get_document(documents: DocumentsDep, document_id: UUID) -> Document:
    return await documents.get(document_id)


@router.post(
    "",
    status_code=201,
    response_model=DocumentRead,
    dependencies=[Depends(RequireOrganizationRole("admin"))],
)
async def create_document(documents: DocumentsDep, new: DocumentCreate) -> Document:
    return await documents.create(new.name)
