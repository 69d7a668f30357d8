from typing import Annotated

from fastapi import Depends

from ..auth.dependencies import CurrentPrincipal
from ..dependencies import SessionDep
from .service import ItemService


async def get_item_service(session: SessionDep, principal: CurrentPrincipal) -> ItemService:
    return ItemService(session, principal.subject)


ItemServiceDep = Annotated[ItemService, Depends(get_item_service)]
