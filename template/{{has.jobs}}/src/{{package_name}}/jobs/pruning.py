from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from . import queue
from .handlers import job


class PruneJobs(BaseModel):
    pass


@job(cron="23 3 * * *")
async def prune_jobs(payload: PruneJobs, session: AsyncSession, state: object) -> None:
    await queue.delete_failed(session)
