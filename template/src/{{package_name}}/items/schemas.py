from datetime import datetime
from uuid import UUID

from pydantic import MISSING, BaseModel, ConfigDict, Field


class ItemCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    # A default in the OpenAPI document makes a field required in some generated clients.
    description: str = Field(default_factory=str, max_length=2000)


class ItemUpdate(BaseModel):
    """A field that is left out keeps its value; null is refused."""

    model_config = ConfigDict(extra="forbid")

    name: str | MISSING = Field(default=MISSING, min_length=1, max_length=200)
    description: str | MISSING = Field(default=MISSING, max_length=2000)


class ItemRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    description: str
    created_at: datetime
    updated_at: datetime
