from pydantic import BaseModel

from ..auth.dependencies import CurrentPrincipal
from ..routing import Router
from .dependencies import ReceiptServiceDep


class Receipt(BaseModel):
    address: str
    number: int


router = Router(prefix="/receipts", tags=["receipts"])


@router.post("", status_code=202)
async def send_receipt(
    receipts: ReceiptServiceDep, principal: CurrentPrincipal, receipt: Receipt
) -> None:
    return await receipts.send(receipt.address, receipt.number)
