from typing import Annotated

from fastapi import Depends

from ..dependencies import SessionDep
from .service import ItemService


async def get_item_service(session: SessionDep) -> ItemService:
    return ItemService(session)


ItemServiceDep = Annotated[ItemService, Depends(get_item_service)]
