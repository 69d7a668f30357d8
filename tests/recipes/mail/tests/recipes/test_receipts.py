from email.message import EmailMessage

from httpx2 import AsyncClient


async def test_a_receipt_is_sent(client: AsyncClient, outbox: list[EmailMessage]) -> None:
    receipt = {"address": "ada@example.com", "number": 7}
    headers = {"X-Key": "key"}
    response = await client.post("/v1/receipts", params=receipt, headers=headers)
    assert response.status_code == 200
    [message] = outbox
    assert message["To"] == "ada@example.com"
    assert message["Subject"] == "Your order 7"
    assert message.get_content() == "Thank you. We have received your order 7.\n"
