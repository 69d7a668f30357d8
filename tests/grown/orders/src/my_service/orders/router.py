from uuid import UUID

from fastapi import status

from ..pagination import Page, PageQuery, PageRead
from ..routing import Router
from .dependencies import OrderServiceDep
from .models import Order
from .schemas import OrderCreate, OrderRead

router = Router(prefix="/orders", tags=["orders"])


@router.get("", response_model=PageRead[OrderRead])
async def list_orders(orders: OrderServiceDep, page: PageQuery) -> Page[Order]:
    return await orders.list(page)


@router.post("", response_model=OrderRead, status_code=status.HTTP_201_CREATED)
async def create_order(orders: OrderServiceDep, new: OrderCreate) -> Order:
    return await orders.create(new)


@router.post("/{order_id}/ship", response_model=OrderRead)
async def ship_order(orders: OrderServiceDep, order_id: UUID) -> Order:
    return await orders.ship(order_id)
