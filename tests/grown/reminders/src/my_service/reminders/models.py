from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from ..database import Base


class Reminder(Base):
    __tablename__ = "reminders"

    text: Mapped[str] = mapped_column(Text)
