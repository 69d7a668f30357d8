from base64 import b64encode
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from pydantic import SecretStr

from my_service.webhooks.dependencies import get_signatures
from my_service.webhooks.signatures import Signatures

from .signing import KEY


@pytest.fixture(autouse=True)
def overrides(app: FastAPI) -> Iterator[None]:
    yield
    app.dependency_overrides.clear()


@pytest.fixture
def sender(app: FastAPI, client: AsyncClient) -> AsyncClient:
    """A client without a token, for requests with signatures."""
    client.headers.pop("Authorization", "")
    signatures = Signatures(SecretStr(f"whsec_{b64encode(KEY).decode()}"))
    app.dependency_overrides[get_signatures] = lambda: signatures
    return client
