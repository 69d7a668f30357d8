from sqlalchemy import select

from ..auth.dependencies import CurrentPrincipal
from ..dependencies import SessionDep
from ..jobs.dependencies import JobsDep
from ..routing import Router
from .jobs import Remind
from .models import Reminder

router = Router(prefix="/reminders", tags=["reminders"])


@router.post("", status_code=202)
async def add_reminder(
    session: SessionDep, jobs: JobsDep, principal: CurrentPrincipal, reminder: Remind
) -> None:
    await jobs.add(session, reminder)


@router.get("")
async def list_reminders(session: SessionDep, principal: CurrentPrincipal) -> list[str]:
    return [*await session.scalars(select(Reminder.text))]
