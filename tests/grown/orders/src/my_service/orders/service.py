from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from ..auth.principal import PrincipalId
from ..errors import NotFound
from ..pagination import Page, PageParameters
from .models import Order, OrderLine, OrderStatus
from .schemas import OrderCreate


class OrderService:
    """The orders of one owner."""

    def __init__(self, session: AsyncSession, owner_id: PrincipalId) -> None:
        self._session = session
        self._owner_id = owner_id

    async def list(self, page: PageParameters) -> Page[Order]:
        statement = select(Order).where(Order.owner_id == self._owner_id).order_by(Order.id)
        if page.after:
            statement = statement.where(Order.id > page.after)
        rows = await self._session.scalars(statement.limit(page.limit + 1))
        return Page.of(rows.all(), page.limit)

    async def create(self, new: OrderCreate) -> Order:
        lines = [OrderLine(**line.model_dump()) for line in new.lines]
        order = Order(owner_id=self._owner_id, lines=lines)
        self._session.add(order)
        await self._session.flush()
        return order

    async def ship(self, order_id: UUID) -> Order:
        statement = select(Order).where(Order.owner_id == self._owner_id, Order.id == order_id)
        order = await self._session.scalar(statement)
        if order is None:
            raise NotFound(f"There is no order {order_id}.")
        status = select(func.next_status(Order.status)).where(Order.id == order_id)
        order.status = OrderStatus(await self._session.scalar(status))
        await self._session.flush()
        return order
