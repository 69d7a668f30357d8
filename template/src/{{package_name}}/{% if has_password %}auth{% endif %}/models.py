from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from ..database import Base
from .schemas import Role


class User(Base):
    __tablename__ = "users"

    email: Mapped[str] = mapped_column(String(254), unique=True)
    password_hash: Mapped[str] = mapped_column(String(200))
    role: Mapped[Role] = mapped_column(String(20), default="user")
    is_active: Mapped[bool] = mapped_column(default=True)
