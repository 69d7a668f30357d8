from typing import Annotated

from fastapi import Depends

from ..auth.dependencies import CurrentPrincipal
from ..dependencies import SessionDep
from .service import OrderService


async def get_order_service(session: SessionDep, principal: CurrentPrincipal) -> OrderService:
    return OrderService(session, principal.id)


OrderServiceDep = Annotated[OrderService, Depends(get_order_service)]
