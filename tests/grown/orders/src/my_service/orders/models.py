from enum import StrEnum
from uuid import UUID

from sqlalchemy import Enum, ForeignKey, Identity, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..auth.models import OwnerId
from ..database import Base


class OrderStatus(StrEnum):
    OPEN = "open"
    SHIPPED = "shipped"


def list_values(enum: type[OrderStatus]) -> list[str]:
    return [status.value for status in enum]


class Order(Base):
    __tablename__ = "orders"

    number: Mapped[int] = mapped_column(Identity(), unique=True)
    owner_id: Mapped[OwnerId] = mapped_column(index=True)
    status: Mapped[OrderStatus] = mapped_column(
        Enum(OrderStatus, values_callable=list_values), default=OrderStatus.OPEN
    )
    lines: Mapped[list["OrderLine"]] = relationship(lazy="selectin", order_by="OrderLine.id")


class OrderLine(Base):
    __tablename__ = "order_lines"

    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), index=True)
    product: Mapped[str] = mapped_column(String(100))
    quantity: Mapped[int]
