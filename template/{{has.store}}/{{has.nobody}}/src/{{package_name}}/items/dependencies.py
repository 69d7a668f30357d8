from typing import Annotated

from fastapi import Depends

from ..dependencies import StoreDep
from .service import ItemService


async def get_item_service(store: StoreDep) -> ItemService:
    return ItemService(store)


ItemServiceDep = Annotated[ItemService, Depends(get_item_service)]
