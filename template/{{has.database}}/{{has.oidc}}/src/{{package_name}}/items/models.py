from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from ..database import Base


class Item(Base):
    __tablename__ = "items"
    # The order of an owner's pages.
    __table_args__ = (Index("ix_items_owner_id", "owner_id", "id"),)

    # The `sub` of the owner's tokens: at most 255 characters (OpenID Connect Core, section 2).
    owner_id: Mapped[str] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
