from fastapi import Depends

from ..auth.dependencies import CurrentPrincipal
from ..cache.limits import RateLimit
from ..routing import Router
from .dependencies import RateServiceDep
from .service import Rate

router = Router(
    prefix="/rates", tags=["rates"], dependencies=[Depends(RateLimit("5/minute", name="rates"))]
)


@router.get("/{currency}")
async def read_rate(
    rates: RateServiceDep, principal: CurrentPrincipal, currency: str
) -> Rate | None:
    return await rates.find(currency)


@router.put("", status_code=204)
async def change_rate(rates: RateServiceDep, principal: CurrentPrincipal, rate: Rate) -> None:
    return await rates.change(rate)
