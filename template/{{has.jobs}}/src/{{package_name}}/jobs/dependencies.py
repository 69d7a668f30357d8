from typing import Annotated

from fastapi import Depends

from .queue import Jobs


async def get_jobs() -> Jobs:
    return Jobs()


JobsDep = Annotated[Jobs, Depends(get_jobs)]
