import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.requests import HTTPConnection
from fastapi.security import APIKeyHeader

from ..errors import Forbidden
from .client import Payments, PaymentsState


class PaymentsConnection(HTTPConnection[PaymentsState]):
    """A request, with the part of the state that this feature opened."""


async def get_payments(connection: PaymentsConnection) -> Payments:
    return connection.state["payments"]


PaymentsDep = Annotated[Payments, Depends(get_payments)]

signature_header = APIKeyHeader(name="X-Signature", scheme_name="Signature")
Signature = Annotated[str, Depends(signature_header)]


async def check_signature(request: Request, payments: PaymentsDep, signature: Signature) -> None:
    """Compare the header with the HMAC-SHA256 of the body."""
    secret = payments.settings.webhook_secret.get_secret_value().encode()
    expected = hmac.digest(secret, await request.body(), "sha256").hex()
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise Forbidden("The signature is wrong.")
