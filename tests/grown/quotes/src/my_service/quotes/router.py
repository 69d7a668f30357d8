from typing import Annotated

from fastapi import Depends

from ..auth.dependencies import CurrentPrincipal
from ..routing import Router
from .service import Quote, QuoteService

router = Router(prefix="/quotes", tags=["quotes"])


@router.post("/{currency}")
async def make_quote(
    quotes: Annotated[QuoteService, Depends()], principal: CurrentPrincipal, currency: str
) -> Quote:
    return await quotes.make(currency)
