from uuid import UUID

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from ..errors import NotFound
from ..pagination import BEFORE_ALL, Page, PageParameters
from .models import Item
from .schemas import ItemCreate, ItemUpdate

# Built once, since that takes longer than to run it.
LIST_ITEMS = (
    select(Item).where(Item.id > bindparam("after")).order_by(Item.id).limit(bindparam("limit"))
)


class ItemService:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list(self, page: PageParameters) -> Page[Item]:
        key = {"after": page.after or BEFORE_ALL, "limit": page.limit + 1}
        found = await self._session.scalars(LIST_ITEMS, key)
        return Page.of(found.all(), page.limit)

    async def get(self, item_id: UUID) -> Item:
        item = await self._session.get(Item, item_id)
        if item is None:
            raise NotFound(f"There is no item {item_id}.")
        return item

    async def create(self, new: ItemCreate) -> Item:
        item = Item(**new.model_dump())
        self._session.add(item)
        await self._session.flush()
        return item

    async def update(self, item_id: UUID, changes: ItemUpdate) -> Item:
        item = await self.get(item_id)
        for name, value in changes.model_dump(exclude_unset=True).items():
            setattr(item, name, value)
        await self._session.flush()
        return item

    async def delete(self, item_id: UUID) -> None:
        await self._session.delete(await self.get(item_id))
