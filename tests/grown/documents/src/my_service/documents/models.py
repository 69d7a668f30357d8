from sqlalchemy import Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from ..database import Base
from ..organizations.models import OrganizationRow


class Document(OrganizationRow, Base):
    __tablename__ = "documents"
    __table_args__ = (Index("ix_documents_organization_id", "organization_id", "id"),)

    name: Mapped[str] = mapped_column(Text)
