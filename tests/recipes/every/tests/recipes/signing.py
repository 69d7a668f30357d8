"""Signs webhooks as their sender does."""

import hmac
from base64 import b64encode
from time import time
from uuid import uuid4

KEY = b"a key of 32 bytes for the tests "
BODY = b'{"order": "1"}'


def sign(body: bytes, age: int = 0) -> dict[str, str]:
    event_id, timestamp = str(uuid4()), str(int(time()) - age)
    content = f"{event_id}.{timestamp}.".encode() + body
    signature = b64encode(hmac.digest(KEY, content, "sha256")).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
