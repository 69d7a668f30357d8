from ..mail.service import Mail


class ReceiptService:
    def __init__(self, mail: Mail) -> None:
        self._mail = mail

    async def send(self, address: str, number: int) -> None:
        await self._mail.send(address, "receipt", number=number)
