"""An OpenID Connect provider for development and tests. It does not authenticate anybody.

Whoever requests a token chooses its subject, scopes and roles. So the provider listens on 127.0.0.1
only, and its keys are lost when the process exits.
"""

import re
import secrets
import socket
import ssl
import sys
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from hashlib import sha256
from html import escape
from threading import Thread
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode

import anyio
import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

HOST = "127.0.0.1"
LIFETIME = 3600  # seconds
LOCAL = r"http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/"

FORM = """<!doctype html>
<title>Who are you?</title>
<h1>Who are you?</h1>
<p>This provider is for development only. It asks for no password.
<form method="post">
<p><label>Subject <input name="subject" value="ada" required autofocus></label>
<p><label>Roles <input name="roles"></label>
<p><label>Scopes <input name="scope" value="{scope}"></label>
<p><button>Continue</button>
</form>
"""


class Key(NamedTuple):
    algorithm: str
    private: Any
    public: dict[str, Any]  # a JWK (RFC 7517)


def make_key(algorithm: str, key_id: str, size: int = 2048) -> Key:
    match algorithm:
        case "ES256":
            private = generate_private_key(SECP256R1())
            public = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case "EdDSA":
            private = Ed25519PrivateKey.generate()
            public = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case _:
            private = generate_rsa_key(public_exponent=65537, key_size=size)
            public = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return Key(algorithm, private, public | {"kid": key_id, "alg": algorithm, "use": "sig"})


class Provider:
    def __init__(self, issuer: str, audience: str) -> None:
        self.issuer = issuer
        self.audience = audience
        self._initial_keys = {name: make_key(name, name) for name in ("RS256", "ES256", "EdDSA")}
        self._codes: dict[str, dict[str, str]] = {}
        self.reset()

    def reset(self) -> None:
        """Undo all changes that tests have made."""
        self.keys = dict(self._initial_keys)
        self.trouble: Literal["", "fails", "hangs"] = ""
        self.requests: Counter[str] = Counter()
        self.documents: dict[str, object] = {
            "/.well-known/openid-configuration": {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "response_types_supported": ["code"],
                "grant_types_supported": ["authorization_code"],
                "code_challenge_methods_supported": ["S256"],
                "scopes_supported": ["openid"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": list(self.keys),
            }
        }

    @property
    def variables(self) -> dict[str, str]:
        """The settings of a service that accepts tokens of this provider."""
        return {
            "AUTH_ISSUER": self.issuer,
            "AUTH_AUDIENCE": self.audience,
            # Use the defaults, even if `.env` sets these for another provider.
            "AUTH_METADATA_URL": "",
            "AUTH_TENANTS": "",
            "AUTH_AUDIENCE_CLAIM": "",
            "AUTH_ALGORITHMS": "",
            "AUTH_TOKEN_TYPES": "",
            "AUTH_MAX_TOKEN_LIFETIME": "",
            "AUTH_ROLES_CLAIM": "",
            "AUTH_SCOPES_CLAIM": "",
        }

    def make_claims(
        self, subject: str, scopes: Iterable[str] = (), roles: Iterable[str] = ()
    ) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": subject,
            "iat": now,
            "exp": now + LIFETIME,
            "jti": secrets.token_hex(),
            "scope": " ".join(scopes),
            "roles": list(roles),
        }

    def sign(self, claims: dict[str, Any], key_id: str = "RS256", type_: str = "at+jwt") -> str:
        key = self.keys[key_id]
        return jwt.encode(claims, key.private, key.algorithm, {"kid": key_id, "typ": type_})

    async def show(self, request: Request) -> Response:
        """Return the configuration or the keys, and count the requests."""
        path = request.url.path
        self.requests[path] += 1
        while self.trouble == "hangs":  # noqa: ASYNC110, another thread changes it
            await anyio.sleep(0.01)
        if self.trouble == "fails":
            return Response(status_code=503)
        keys = {"keys": [key.public for key in self.keys.values()]}
        return JSONResponse(self.documents.get(path, keys))

    async def authorize(self, request: Request) -> Response:
        """Show a form for the user, then redirect with a code (RFC 6749, section 4.1)."""
        query = dict(request.query_params)
        if not re.match(LOCAL, query.get("redirect_uri", "")):
            raise HTTPException(400, "The redirect_uri must be on this machine.")
        if query.get("code_challenge_method") != "S256":
            raise HTTPException(400, "The code_challenge_method must be S256 (RFC 7636).")
        if request.method == "GET":
            return HTMLResponse(FORM.format(scope=escape(query.get("scope", ""))))
        code = secrets.token_urlsafe()
        self._codes[code] = query | await read_form(request)
        parameters = {"code": code, "state": query.get("state", "")}
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(parameters)}", 303)

    async def grant(self, request: Request) -> Response:
        form = await read_form(request)
        match form.get("grant_type"):
            case "client_credentials":
                grant = {"subject": form.get("client_id", ""), **form}
            case "authorization_code":
                grant = self._codes.pop(form.get("code", ""), {})
                if not matches(grant.get("code_challenge"), form.get("code_verifier", "")):
                    return JSONResponse({"error": "invalid_grant"}, 400)
            case _:
                return JSONResponse({"error": "unsupported_grant_type"}, 400)
        scopes, roles = grant.get("scope", "").split(), grant.get("roles", "").split()
        claims = self.make_claims(grant.get("subject", ""), scopes, roles)
        token = self.sign(claims)
        body = {"token_type": "Bearer", "expires_in": LIFETIME, "access_token": token}
        if "openid" in scopes:
            id_claims = claims | {"aud": form.get("client_id"), "at_hash": hash_token(token)}
            nonce = {"nonce": grant["nonce"]} if "nonce" in grant else {}
            body["id_token"] = self.sign(id_claims | nonce, type_="JWT")
        return JSONResponse(body, headers={"Cache-Control": "no-store"})


async def read_form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode()))


def hash_token(token: str) -> str:
    """Return the `at_hash` of an access token (OpenID Connect Core, section 3.1.3.6)."""
    return urlsafe_b64encode(sha256(token.encode()).digest()[:16]).rstrip(b"=").decode()


def matches(challenge: str | None, verifier: str) -> bool:
    """Whether the code verifier matches the code challenge (RFC 7636, section 4.6)."""
    digest = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=")
    return challenge == digest.decode()


@contextmanager
def running_provider(audience: str, context: ssl.SSLContext | None = None) -> Generator[Provider]:
    """Run a provider on a free port until the block ends, with HTTPS if there is a context."""
    scheme = "https" if context else "http"
    with socket.create_server((HOST, 0)) as listener:
        provider = Provider(f"{scheme}://{HOST}:{listener.getsockname()[1]}", audience)
        routes = [
            Route("/.well-known/openid-configuration", provider.show),
            Route("/jwks", provider.show),
            Route("/authorize", provider.authorize, methods=["GET", "POST"]),
            Route("/token", provider.grant, methods=["POST"]),
        ]
        # The interactive docs have another port, so their requests are cross-origin.
        permissions = {"allow_origins": ["*"], "allow_methods": ["*"], "allow_headers": ["*"]}
        cors = Middleware(CORSMiddleware, **permissions)
        app = Starlette(routes=routes, middleware=[cors])
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                workers=1,  # even if WEB_CONCURRENCY is set
                log_config=None,
                access_log=False,
                lifespan="off",
                ssl_context_factory=(lambda *_: context) if context else None,
                timeout_graceful_shutdown=1,
            )
        )
        thread = Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield provider
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def development_provider(service: str) -> Generator[dict[str, str]]:
    """Run a provider, print how to get a token, and yield the settings that accept it."""
    with running_provider(service) as provider:
        curl = f"curl -d grant_type=client_credentials -d client_id=ada {provider.issuer}/token"
        print(f"Get a token from the provider for development with: {curl}", file=sys.stderr)
        yield {**provider.variables, "AUTH_DOCS_CLIENT_ID": "docs"}
