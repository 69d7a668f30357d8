from typing import Annotated

from fastapi import Depends

from ..auth.dependencies import CurrentPrincipal
from ..dependencies import StoreDep
from .service import ItemService


async def get_item_service(store: StoreDep, principal: CurrentPrincipal) -> ItemService:
    return ItemService(store, principal.subject)


ItemServiceDep = Annotated[ItemService, Depends(get_item_service)]
