import hmac

from httpx2 import ASGITransport, AsyncClient
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from my_service.lifespan import State
from my_service.payments.client import Payments
from my_service.settings import Settings

EVENT = b'{"payment": "p1", "state": "paid"}'


def sign(settings: Settings, body: bytes) -> str:
    secret = settings.payments.webhook_secret.get_secret_value().encode()
    return hmac.digest(secret, body, "sha256").hex()


async def test_a_webhook_is_signed(anonymous: AsyncClient, settings: Settings) -> None:
    headers = {"Content-Type": "application/json", "X-Signature": sign(settings, EVENT)}
    response = await anonymous.post("/v1/payments/events", content=EVENT, headers=headers)
    assert response.status_code == 202
    forged = headers | {"X-Signature": sign(settings, b"another body")}
    response = await anonymous.post("/v1/payments/events", content=EVENT, headers=forged)
    assert response.status_code == 403


async def test_a_refund_asks_the_provider(
    client: AsyncClient, opened: State, settings: Settings
) -> None:
    state = "refunded"

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"state": state} if state else {})(scope, receive, send)

    transport = ASGITransport(respond)
    async with AsyncClient(transport=transport, base_url="http://payments") as provider:
        opened["payments"] = Payments(settings.payments, provider)
        response = await client.post("/v1/payments/p1/refund")
        assert response.json() == {"state": "refunded"}
        state = ""
        assert (await client.post("/v1/payments/p1/refund")).status_code == 502
