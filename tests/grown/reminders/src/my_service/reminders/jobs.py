from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import DatabaseState
from ..jobs import job
from .models import Reminder


class Remind(BaseModel):
    text: str


@job
async def remind(payload: Remind, session: AsyncSession, state: DatabaseState) -> None:
    session.add(Reminder(text=payload.text))
