from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Ids are UUIDs of version 7: they sort by age, so they are page cursors, too."""

    id: UUID = field(default_factory=uuid7)
    name: str
    description: str
    created_at: datetime
    updated_at: datetime
