"""The provider for development, used as the interactive docs and `curl` do."""

from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator
from hashlib import sha256
from secrets import token_urlsafe
from urllib.parse import parse_qsl, urlsplit

import pytest
from httpx2 import AsyncClient, Response

from dev.provider import Provider

REDIRECT = "http://127.0.0.1:8000/docs/oauth2-redirect"


@pytest.fixture
async def browser(provider: Provider) -> AsyncGenerator[AsyncClient]:
    async with AsyncClient(base_url=provider.issuer) as client:
        yield client


async def ask(client: AsyncClient, token_response: Response) -> Response:
    headers = {"Authorization": f"Bearer {token_response.json()['access_token']}"}
    return await client.get("/v1/auth/me", headers=headers)


async def log_in(browser: AsyncClient, verifier: str, **changes: str) -> str:
    """Log in as a browser does, and return the authorization code (RFC 7636)."""
    digest = urlsafe_b64encode(sha256(verifier.encode()).digest())
    query = {
        "response_type": "code",
        "client_id": "docs",
        "redirect_uri": REDIRECT,
        "scope": "openid items:read",
        "state": "a & b",
        "nonce": "n",
        "code_challenge": digest.decode().rstrip("="),
        "code_challenge_method": "S256",
    } | changes
    page = await browser.get("/authorize", params=query)
    assert "for development only" in page.text
    assert 'value="openid items:read"' in page.text
    form = {"subject": "grace", "roles": "admin auditor", "scope": "openid items:read"}
    redirect = await browser.post("/authorize", params=query, data=form)
    assert redirect.status_code == 303
    assert redirect.headers["Location"].startswith(REDIRECT)
    query_values = dict(parse_qsl(urlsplit(redirect.headers["Location"]).query))
    assert query_values["state"] == "a & b"
    return query_values["code"]


async def test_a_person_logs_in_with_a_code(browser: AsyncClient, anonymous: AsyncClient) -> None:
    verifier = token_urlsafe(32)
    code = await log_in(browser, verifier)
    form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
    token_response = await browser.post("/token", data={**form, "client_id": "docs"})
    assert token_response.status_code == 200
    assert (await ask(anonymous, token_response)).json() == {
        "subject": "grace",
        "scopes": ["items:read", "openid"],
        "roles": ["admin", "auditor"],
    }
    headers = {"Authorization": f"Bearer {token_response.json()['id_token']}"}
    assert (await anonymous.get("/v1/auth/me", headers=headers)).status_code == 401
    second_response = await browser.post("/token", data=form)
    assert second_response.status_code == 400
    assert second_response.json() == {"error": "invalid_grant"}


async def test_an_id_token_is_never_accepted_as_an_access_token(
    browser: AsyncClient, anonymous: AsyncClient, provider: Provider
) -> None:
    verifier = token_urlsafe(32)
    client = {"client_id": provider.audience}
    code = await log_in(browser, verifier, **client)
    form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
    tokens = (await browser.post("/token", data=form | client)).json()
    for name, status in {"access_token": 200, "id_token": 401}.items():
        headers = {"Authorization": f"Bearer {tokens[name]}"}
        assert (await anonymous.get("/v1/auth/me", headers=headers)).status_code == status, name


async def test_a_code_works_only_with_its_verifier(browser: AsyncClient) -> None:
    for verifier in ("", token_urlsafe(32)):
        # A code can be tried once, so each attempt gets a new one.
        code = await log_in(browser, token_urlsafe(32))
        form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
        response = await browser.post("/token", data=form)
        assert response.status_code == 400
        assert response.json() == {"error": "invalid_grant"}


async def test_a_command_gets_a_token(browser: AsyncClient, anonymous: AsyncClient) -> None:
    form = {"grant_type": "client_credentials", "client_id": "ada", "scope": "items:write"}
    token_response = await browser.post("/token", data=form)
    me = (await ask(anonymous, token_response)).json()
    assert me == {"subject": "ada", "scopes": ["items:write"], "roles": []}


@pytest.mark.parametrize(
    "query",
    [
        {"redirect_uri": "https://evil.example/", "code_challenge_method": "S256"},
        {"redirect_uri": "http://localhost.evil.example/", "code_challenge_method": "S256"},
        {"redirect_uri": "http://localhost:80@evil.example/", "code_challenge_method": "S256"},
        {"redirect_uri": REDIRECT},
        {"redirect_uri": REDIRECT, "code_challenge_method": "plain"},
        {},
    ],
)
async def test_the_development_provider_refuses_unsafe_requests(
    browser: AsyncClient, query: dict[str, str]
) -> None:
    for method in ("GET", "POST"):
        assert (await browser.request(method, "/authorize", params=query)).status_code == 400
    assert (await browser.post("/token", data={"grant_type": "implicit"})).status_code == 400


async def test_pages_on_other_ports_may_call_the_provider(
    browser: AsyncClient, provider: Provider
) -> None:
    origin = {"Origin": "http://127.0.0.1:8000"}
    preflight = origin | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-requested-with",
    }
    assert (await browser.options("/token", headers=preflight)).status_code == 200
    metadata = await browser.get("/.well-known/openid-configuration", headers=origin)
    assert metadata.headers["Access-Control-Allow-Origin"] == "*"
    assert metadata.json()["token_endpoint"] == f"{provider.issuer}/token"
