from typing import Annotated

from fastapi import Depends

from ..cache.dependencies import CacheDep
from .service import RateService


async def get_rate_service(cache: CacheDep) -> RateService:
    return RateService(cache)


RateServiceDep = Annotated[RateService, Depends(get_rate_service)]
