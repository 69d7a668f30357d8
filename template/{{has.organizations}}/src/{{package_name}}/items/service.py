from uuid import UUID

from sqlalchemy import Integer, bindparam, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from ..errors import NotFound
from ..organizations.members import Membership
from ..pagination import BEFORE_ALL, Page, PageParameters
from .models import Item
from .schemas import ItemCreate, ItemUpdate

# Built once: building a statement takes longer than running it.
FIND_ITEM = select(Item).where(
    Item.organization_id == bindparam("organization_id"), Item.id == bindparam("item_id")
)
# A comparison of rows uses the index on both columns. With two separate comparisons PostgreSQL may
# scan the primary key and skip the items of other organizations.
LIST_ITEMS = (
    select(Item)
    .where(
        tuple_(Item.organization_id, Item.id)
        > tuple_(
            bindparam("organization_id", type_=Item.organization_id.type),
            bindparam("after", type_=Item.id.type),
        ),
        Item.organization_id <= bindparam("organization_id"),
    )
    .order_by(Item.organization_id, Item.id)
    .limit(bindparam("limit", type_=Integer))
)


class ItemService:
    """The items of one organization. It does not see those of others, with any session."""

    def __init__(self, session: AsyncSession, membership: Membership) -> None:
        self._session = session
        self._membership = membership
        self._organization_id = membership.organization_id

    async def list(self, page: PageParameters) -> Page[Item]:
        key = {"organization_id": self._organization_id, "after": page.after or BEFORE_ALL}
        rows = await self._session.scalars(LIST_ITEMS, key | {"limit": page.limit + 1})
        return Page.of(rows.all(), page.limit)

    async def get(self, item_id: UUID) -> Item:
        key = {"organization_id": self._organization_id, "item_id": item_id}
        item = await self._session.scalar(FIND_ITEM, key)
        if item is None:
            raise NotFound(f"There is no item {item_id}.")
        return item

    async def create(self, new: ItemCreate) -> Item:
        item = Item(
            organization_id=self._organization_id,
            owner_id=self._membership.principal_id,
            **new.model_dump(),
        )
        self._session.add(item)
        await self._session.flush()
        return item

    async def update(self, item_id: UUID, changes: ItemUpdate) -> Item:
        item = await self.get(item_id)
        for name, value in changes.model_dump().items():
            setattr(item, name, value)
        await self._session.flush()
        return item

    async def delete(self, item_id: UUID) -> None:
        await self._session.delete(await self.get(item_id))
