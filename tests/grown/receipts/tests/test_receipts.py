from email.message import EmailMessage

from httpx2 import AsyncClient


async def test_a_receipt_is_sent(client: AsyncClient, outbox: list[EmailMessage]) -> None:
    receipt = {"address": "bob@example.com", "number": 7}
    response = await client.post("/v1/receipts", json=receipt)
    assert response.status_code == 202
    [message] = outbox
    assert (message["To"], message["Subject"]) == ("bob@example.com", "Your order 7")
