from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ..items.service import ItemService
from .models import Note


class NoteService:
    """The notes on items that the caller may see."""

    def __init__(self, session: AsyncSession, items: ItemService, max_length: int) -> None:
        self._session = session
        self._items = items
        self._max_length = max_length

    async def list(self, item_id: UUID) -> list[Note]:
        await self._items.get(item_id)
        rows = await self._session.scalars(select(Note).where(Note.item_id == item_id))
        return [*rows]

    async def add(self, item_id: UUID, text: str) -> Note:
        await self._items.get(item_id)
        note = Note(item_id=item_id, text=text[: self._max_length])
        self._session.add(note)
        await self._session.flush()
        return note
