"""Verifies access tokens: JWTs (RFC 9068) that the OpenID Connect provider has signed."""

from collections.abc import Mapping
from typing import Any

import jwt
import structlog
from jwt.exceptions import InvalidSubjectError
from jwt.types import Options

from .bearer import InvalidToken
from .principal import Principal
from .provider import Provider
from .settings import AuthSettings

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()

MAX_LENGTH = 16_384
LEEWAY = 30  # seconds by which clocks may differ
# Claims that only other kinds of tokens have. A provider may sign those for the same audience.
OTHER_CLAIMS = {
    # ID tokens (OpenID Connect Core, sections 2 and 3.3.2.11; FAPI 1.0)
    "nonce",
    "at_hash",
    "c_hash",
    "s_hash",
    # Security events (RFC 8417), such as logout tokens
    "events",
    # Responses to introspection (RFC 9701)
    "token_introspection",
}
BOUND = (
    "The access token is bound to a key (cnf), and this service does not support that: "
    "send a bearer token."
)
# The claim that each error of PyJWT is about.
CLAIMS: dict[type[Exception], str] = {
    jwt.InvalidIssuerError: "iss",
    jwt.InvalidAudienceError: "aud",
    InvalidSubjectError: "sub",
    jwt.InvalidIssuedAtError: "iat",
    jwt.ImmatureSignatureError: "iat or nbf",
    jwt.ExpiredSignatureError: "exp",
}


class ClaimError(jwt.InvalidTokenError):
    def __init__(self, claim: str) -> None:
        super().__init__(claim)
        self.claim = claim


class WrongKindError(ClaimError):
    """The token is not an access token."""


class WrongClientError(ClaimError):
    """The token was issued to a client that the settings do not list."""


class WrongTimeError(ClaimError):
    """The value of a time is not a number."""


class LongLifetimeError(ClaimError):
    """The token is valid for longer than the settings allow."""


class BoundTokenError(ClaimError):
    """The token needs a proof that its sender has a key (DPoP, mutual TLS)."""


class Tokens:
    def __init__(self, settings: AuthSettings, provider: Provider) -> None:
        self._settings = settings
        self._provider = provider
        self._types = {type_.lower() for type_ in settings.token_types}
        self._issuers = settings.issuers
        # With None, PyJWT refuses tokens that have an audience. They are for another service.
        self._audience = settings.audience if settings.audience_claim == "aud" else None
        self._checks: Options = {
            "require": ["iss", settings.audience_claim, "sub", "iat", "exp"],
            "enforce_minimum_key_length": True,
        }

    async def verify(self, token: str) -> Principal:
        """Return the principal of a token.

        Raise `InvalidToken` if it is refused, and `Unavailable` while there are no keys.
        """
        try:
            claims = await self._verify(token)
        except (jwt.PyJWTError, RecursionError, TypeError, ValueError) as error:
            claim = getattr(error, "claim", CLAIMS.get(type(error)))
            logger.info("token refused", reason=type(error).__name__, claim=claim)
            raise InvalidToken(BOUND if isinstance(error, BoundTokenError) else "") from None
        return Principal(
            id=claims["sub"],
            scopes=read_scopes(find_claim(claims, self._settings.scopes_claim)),
            roles=read_roles(find_claim(claims, self._settings.roles_claim)),
            claims=claims,
        )

    async def _verify(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_LENGTH:
            raise jwt.DecodeError
        # Decode the header only. Decoding the claims twice would take 50 % longer.
        header = jwt.get_unverified_header(token.partition(".")[0] + "..")
        # A media type. The prefix "application/" is optional (RFC 7515, section 4.1.9).
        type_ = str(header.get("typ", "JWT")).lower().removeprefix("application/")
        if type_ not in self._types:
            raise WrongKindError("typ")
        algorithm = header.get("alg")
        if algorithm not in self._settings.algorithms:
            raise jwt.InvalidAlgorithmError
        claims = jwt.decode(
            token,
            await self._provider.find_key(algorithm, header.get("kid")),
            self._settings.algorithms,
            self._checks,
            issuer=self._issuers,
            audience=self._audience,
            leeway=LEEWAY,
        )
        self._check(claims)
        return claims

    def _check(self, claims: Mapping[str, Any]) -> None:
        """Raise unless this is a bearer access token with a valid lifetime, client and subject."""
        # PyJWT would accept "1" as a time.
        for name in ("iat", "nbf", "exp"):
            if type(claims.get(name, 0)) not in (int, float):
                raise WrongTimeError(name)
        if claims["exp"] > claims["iat"] + self._settings.max_token_lifetime:
            raise LongLifetimeError("exp")
        if self._audience is None and claims["client_id"] not in self._settings.audience:
            raise WrongClientError("client_id")
        if "cnf" in claims:  # RFC 7800
            raise BoundTokenError("cnf")
        # Keycloak has the kind of a token in the claim `typ`, Cognito in `token_use`.
        for name, kind in {"typ": "Bearer", "token_use": "access"}.items():
            if claims.get(name, kind) != kind:
                raise WrongKindError(name)
        if names := OTHER_CLAIMS & claims.keys():
            raise WrongKindError(min(names))
        # OpenID Connect Core, section 2.
        if not (1 <= len(claims["sub"]) <= 255 and claims["sub"].isprintable()):
            raise InvalidSubjectError


def find_claim(claims: object, name: str) -> object:
    """Return the claim with this name, or else the value at this path: `realm_access.roles`.

    Names in a path may contain dots: `resource_access.my.client.roles`. None if there is neither.
    """
    if not isinstance(claims, dict):
        return None
    if name in claims:
        return claims[name]
    dots = [index for index, character in enumerate(name) if character == "."]
    values = (find_claim(claims.get(name[:dot]), name[dot + 1 :]) for dot in reversed(dots))
    return next((value for value in values if value is not None), None)


def read_scopes(value: object) -> frozenset[str]:
    """Read the words of a string (RFC 8693, section 4.2) or a list. Ignore other values."""
    words = value.split() if isinstance(value, str) else value
    return read_roles(words) if isinstance(words, list) else frozenset()


def read_roles(value: object) -> frozenset[str]:
    """Read a list, an object, or a string, which is one role even with spaces in it.

    Ignore other values.
    """
    roles = [value] if isinstance(value, str) and value else value
    if isinstance(roles, dict):
        # Zitadel: each role, with the organizations that have granted it.
        roles = [role for role, grants in roles.items() if grants and isinstance(grants, dict)]
    if not isinstance(roles, list):
        return frozenset()
    return frozenset(
        role for role in roles if isinstance(role, str) and role and role.isprintable()
    )
