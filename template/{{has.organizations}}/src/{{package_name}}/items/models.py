from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from ..auth.models import OwnerId
from ..database import Base
from ..organizations.models import OrganizationRow


class Item(OrganizationRow, Base):
    __tablename__ = "items"
    # The order of an organization's pages.
    __table_args__ = (Index("ix_items_organization_id", "organization_id", "id"),)

    owner_id: Mapped[OwnerId]  # who created it
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
