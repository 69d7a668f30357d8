from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from .models import OrderStatus


class Line(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    product: str = Field(min_length=1, max_length=100)
    quantity: PositiveInt


class OrderCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lines: list[Line] = Field(min_length=1, max_length=100)


class OrderRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    number: int
    status: OrderStatus
    lines: list[Line]
