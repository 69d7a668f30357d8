"""The provider for development, as the interactive docs and `curl` use it."""

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


async def ask(client: AsyncClient, granted: Response) -> Response:
    headers = {"Authorization": f"Bearer {granted.json()['access_token']}"}
    return await client.get("/v1/auth/me", headers=headers)


async def log_in(browser: AsyncClient, verifier: str, **changes: str) -> str:
    """Say who we are, as a person in a browser does, and return the code (RFC 7636)."""
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
    sent_back = await browser.post("/authorize", params=query, data=form)
    assert sent_back.status_code == 303
    assert sent_back.headers["Location"].startswith(REDIRECT)
    answer = dict(parse_qsl(urlsplit(sent_back.headers["Location"]).query))
    assert answer["state"] == "a & b"
    return answer["code"]


async def test_a_person_logs_in_with_a_code(browser: AsyncClient, anonymous: AsyncClient) -> None:
    verifier = token_urlsafe(32)
    code = await log_in(browser, verifier)
    form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
    granted = await browser.post("/token", data={**form, "client_id": "docs"})
    assert granted.status_code == 200
    assert (await ask(anonymous, granted)).json() == {
        "subject": "grace",
        "scopes": ["items:read", "openid"],
        "roles": ["admin", "auditor"],
    }
    identity = {"Authorization": f"Bearer {granted.json()['id_token']}"}
    assert (await anonymous.get("/v1/auth/me", headers=identity)).status_code == 401
    again = await browser.post("/token", data=form)
    assert again.status_code == 400
    assert again.json() == {"error": "invalid_grant"}


async def test_an_id_token_is_no_access_token_even_where_the_client_is_the_audience(
    browser: AsyncClient, anonymous: AsyncClient, provider: Provider
) -> None:
    verifier = token_urlsafe(32)
    client = {"client_id": provider.audience}
    code = await log_in(browser, verifier, **client)
    form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
    granted = (await browser.post("/token", data=form | client)).json()
    for name, status in {"access_token": 200, "id_token": 401}.items():
        headers = {"Authorization": f"Bearer {granted[name]}"}
        assert (await anonymous.get("/v1/auth/me", headers=headers)).status_code == status, name


async def test_a_code_is_of_use_only_to_who_asked_for_it(browser: AsyncClient) -> None:
    for wrong in ("", token_urlsafe(32)):
        # A code is good for one attempt, so each has one of its own.
        code = await log_in(browser, token_urlsafe(32))
        form = {"grant_type": "authorization_code", "code": code, "code_verifier": wrong}
        refused = await browser.post("/token", data=form)
        assert refused.status_code == 400
        assert refused.json() == {"error": "invalid_grant"}


async def test_a_command_gets_a_token(browser: AsyncClient, anonymous: AsyncClient) -> None:
    form = {"grant_type": "client_credentials", "client_id": "ada", "scope": "items:write"}
    granted = await browser.post("/token", data=form)
    me = (await ask(anonymous, granted)).json()
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
async def test_the_development_provider_refuses_what_is_not_safe(
    browser: AsyncClient, query: dict[str, str]
) -> None:
    for method in ("GET", "POST"):
        assert (await browser.request(method, "/authorize", params=query)).status_code == 400
    assert (await browser.post("/token", data={"grant_type": "implicit"})).status_code == 400


async def test_pages_on_other_ports_may_call_it(browser: AsyncClient, provider: Provider) -> None:
    origin = {"Origin": "http://127.0.0.1:8000"}
    preflight = origin | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-requested-with",
    }
    assert (await browser.options("/token", headers=preflight)).status_code == 200
    metadata = await browser.get("/.well-known/openid-configuration", headers=origin)
    assert metadata.headers["Access-Control-Allow-Origin"] == "*"
    assert metadata.json()["token_endpoint"] == f"{provider.issuer}/token"
