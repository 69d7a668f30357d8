"""Access tokens: JWTs (RFC 9068) that the OpenID Connect provider has signed for this service."""

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
LEEWAY = 30  # seconds that the clocks may differ
TYPES = {"jwt", "at+jwt", "application/at+jwt"}
OTHER_KINDS = ("ID", "Refresh", "Offline", "Logout")
CHECKS: Options = {
    "require": ["iss", "aud", "sub", "iat", "exp"],
    "enforce_minimum_key_length": True,
}


class Tokens:
    def __init__(self, settings: AuthSettings, provider: Provider) -> None:
        self._settings = settings
        self._provider = provider

    async def verify(self, token: str) -> Principal:
        """Return whom it names. Raise `InvalidToken`; `Unavailable` while there are no keys."""
        try:
            claims = await self._verify(token)
        except (jwt.PyJWTError, RecursionError, TypeError, ValueError) as error:
            logger.info("token refused", reason=type(error).__name__)
            raise InvalidToken from error
        return Principal(
            id=claims["sub"],
            scopes=read_scopes(find_claim(claims, self._settings.scopes_claim)),
            roles=read_roles(find_claim(claims, self._settings.roles_claim)),
            claims=claims,
        )

    async def _verify(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_LENGTH:
            raise jwt.DecodeError
        # The header alone: the claims are decoded below, and twice would take half as long again.
        header = jwt.get_unverified_header(token.partition(".")[0] + "..")
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in TYPES:
            raise jwt.InvalidTokenError
        algorithm = header.get("alg")
        if algorithm not in self._settings.algorithms:
            raise jwt.InvalidAlgorithmError
        claims = jwt.decode(
            token,
            await self._provider.find_key(algorithm, header.get("kid")),
            self._settings.algorithms,
            CHECKS,
            issuer=self._settings.issuer,
            audience=self._settings.audience,
            leeway=LEEWAY,
        )
        # Some providers sign ID tokens and refresh tokens like access tokens, but for these marks.
        if claims.get("typ") in OTHER_KINDS or claims.get("token_use") == "id":
            raise jwt.InvalidTokenError
        # PyJWT would take "1" for a time.
        if not all(type(claims.get(name, 0)) in (int, float) for name in ("iat", "nbf", "exp")):
            raise jwt.InvalidTokenError
        # OpenID Connect Core, section 2.
        if not (1 <= len(claims["sub"]) <= 255 and claims["sub"].isprintable()):
            raise InvalidSubjectError
        return claims


def find_claim(claims: Mapping[str, Any], name: str) -> object:
    """Return the claim of this name, else what is at this path: `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def read_scopes(value: object) -> frozenset[str]:
    """Words in a string (RFC 8693, section 4.2), or a list; anything else is none."""
    return read_roles(value.split() if isinstance(value, str) else value)


def read_roles(value: object) -> frozenset[str]:
    """A list, or a single one, which may have spaces in it; anything else is none."""
    roles = [value] if isinstance(value, str) and value else value
    if not isinstance(roles, list):
        return frozenset()
    return frozenset(
        role for role in roles if isinstance(role, str) and role and role.isprintable()
    )
