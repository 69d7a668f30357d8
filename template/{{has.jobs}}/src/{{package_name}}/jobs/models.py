from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Index, String, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..database import Base


class Job(Base):
    """A job that waits, runs or has failed. One that is done has no row, unless it is periodic."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_due_at", "due_at", postgresql_where=text("failed_at IS NULL")),
    )

    name: Mapped[str] = mapped_column(String(100))  # of the type of the payload
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    # Cleared when the first attempt starts.
    key: Mapped[str | None] = mapped_column(String(200), unique=True)
    schedule: Mapped[str | None] = mapped_column(String(200))  # of a periodic job
    # While it runs, the end of its lease: then, other workers may run it.
    due_at: Mapped[datetime]
    lease: Mapped[UUID | None]  # of the worker that claimed it, together with others
    attempts: Mapped[int] = mapped_column(default=0)  # that have started
    # The ids of the request that added it.
    context: Mapped[dict[str, str]] = mapped_column(JSONB, default=dict)
    failed_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)  # of the last attempt
