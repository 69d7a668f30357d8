from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, status
from pydantic import BaseModel, ConfigDict

from ..auth.dependencies import CurrentUser
from ..dependencies import SessionDep, SettingsDep
from ..items.dependencies import ItemServiceDep
from .models import Note
from .service import NoteService

router = APIRouter(prefix="/items/{item_id}/notes", tags=["notes"])


class NoteBody(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    text: str


async def get_note_service(
    session: SessionDep, items: ItemServiceDep, user: CurrentUser, settings: SettingsDep
) -> NoteService:
    return NoteService(session, items, settings.notes.max_length)


NoteServiceDep = Annotated[NoteService, Depends(get_note_service)]


@router.get("", response_model=list[NoteBody])
async def list_notes(notes: NoteServiceDep, item_id: UUID) -> list[Note]:
    return await notes.list(item_id)


@router.post("", response_model=NoteBody, status_code=status.HTTP_201_CREATED)
async def add_note(notes: NoteServiceDep, item_id: UUID, note: NoteBody) -> Note:
    return await notes.add(item_id, note.text)
