"""Jobs that do nothing, and how they are added, in a rendered service: for both queues."""

import asyncio
import json
import os
import sys
import time

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from .. import jobs
from ..database import open_database
from ..settings import get_settings

PAUSE = 0.01  # seconds between two jobs whose latency is measured
SELECT = text("SELECT 1")
DEFER = text(
    "SELECT procrastinate_defer_jobs_v1(ARRAY[ROW('default', 'noop', 0, NULL, NULL, "
    "CAST(:payload AS jsonb), NULL)::procrastinate_job_to_defer_v1])"
)


class Noop(BaseModel):
    number: int


@jobs.job
async def note_start(payload: Noop, session: AsyncSession, state: object) -> None:
    """Append a line to the file of the benchmark. Lines of several processes do not mix."""
    if "USES_SESSION" in os.environ:
        await session.execute(SELECT)
    file = os.open(os.environ["STARTS"], os.O_WRONLY | os.O_APPEND)
    os.write(file, f"{os.getpid()} {payload.number} {time.time()}\n".encode())
    os.close(file)


async def add(session: AsyncSession, queue: str, number: int) -> None:
    if queue == "keel":
        await jobs.add(session, Noop(number=number))
    else:
        await session.execute(DEFER, {"payload": json.dumps({"number": number})})


async def main(queue: str, mode: str, count: int) -> None:
    """Add jobs with numbers, and print when each commit began.

    `each` is one transaction per job, `paced` with pauses between them, `together` is one for all,
    and `nothing` adds none. Each transaction has another statement, too.
    """
    commits: list[float] = []
    async with open_database(get_settings().database) as database:
        size = count if mode == "together" else 1
        for first in range(0, count, size):
            async with database.write.begin() as session:
                await session.execute(SELECT)
                for number in range(first, first + size) if mode != "nothing" else ():
                    await add(session, queue, number)
                commits.append(time.time())
            await asyncio.sleep(PAUSE if mode == "paced" else 0)
    print(json.dumps([*commits, time.time()]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
