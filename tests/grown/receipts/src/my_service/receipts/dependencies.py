from typing import Annotated

from fastapi import Depends

from ..mail.dependencies import MailDep
from .service import ReceiptService


async def get_receipt_service(mail: MailDep) -> ReceiptService:
    return ReceiptService(mail)


ReceiptServiceDep = Annotated[ReceiptService, Depends(get_receipt_service)]
