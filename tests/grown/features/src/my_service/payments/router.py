from fastapi import Depends, status
from pydantic import BaseModel

from ..auth.dependencies import CurrentPrincipal
from ..routing import Router
from .dependencies import PaymentsDep, check_signature

router = Router(prefix="/payments", tags=["payments"])


class PaymentEvent(BaseModel):
    payment: str
    state: str


class Refund(BaseModel):
    state: str


@router.post(
    "/events", dependencies=[Depends(check_signature)], status_code=status.HTTP_202_ACCEPTED
)
async def receive_event(event: PaymentEvent) -> PaymentEvent:
    return event


@router.post("/{payment}/refund")
async def refund(payments: PaymentsDep, principal: CurrentPrincipal, payment: str) -> Refund:
    return Refund(state=await payments.refund(payment))
