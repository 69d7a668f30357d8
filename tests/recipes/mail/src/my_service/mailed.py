from fastapi import Depends
from fastapi.security import APIKeyHeader

from .receipts.dependencies import ReceiptServiceDep
from .routing import Router

# Protected, in a project that may have no other credential.
key = Depends(APIKeyHeader(name="X-Key"))
router = Router(prefix="/receipts", tags=["receipts"], dependencies=[key])


@router.post("")
async def send_receipt(address: str, number: int, receipts: ReceiptServiceDep) -> None:
    await receipts.send(address, number)


routers = [router]
