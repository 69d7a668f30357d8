from typing import Annotated

from fastapi import Depends

from ..auth.dependencies import CurrentUser
from ..dependencies import SessionDep
from .service import ItemService


async def get_item_service(session: SessionDep, user: CurrentUser) -> ItemService:
    return ItemService(session, user.id)


ItemServiceDep = Annotated[ItemService, Depends(get_item_service)]
