from uuid import UUID

from fastapi import status

from ..dependencies import CREATED, LocateDep
from ..pagination import Page, PageQuery, PageRead
from ..routing import Router
from .dependencies import ItemServiceDep
from .models import Item
from .schemas import ItemCreate, ItemRead, ItemUpdate

router = Router(prefix="/items", tags=["items"])


@router.get("", response_model=PageRead[ItemRead])
async def list_items(items: ItemServiceDep, page: PageQuery) -> Page[Item]:
    """List items in the order in which they were created."""
    return await items.list(page)


@router.post("", response_model=ItemRead, status_code=status.HTTP_201_CREATED, responses=CREATED)
async def create_item(items: ItemServiceDep, locate: LocateDep, new: ItemCreate) -> Item:
    return locate(await items.create(new))


@router.get("/{item_id}", response_model=ItemRead)
async def get_item(items: ItemServiceDep, item_id: UUID) -> Item:
    return await items.get(item_id)


@router.patch("/{item_id}", response_model=ItemRead)
async def update_item(items: ItemServiceDep, item_id: UUID, changes: ItemUpdate) -> Item:
    return await items.update(item_id, changes)


@router.delete("/{item_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_item(items: ItemServiceDep, item_id: UUID) -> None:
    return await items.delete(item_id)
