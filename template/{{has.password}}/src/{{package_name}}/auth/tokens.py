"""Access tokens: JWTs of the type `at+jwt` (RFC 9068) that this service signs and verifies."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import jwt
import structlog

from ..database import utc_now
from .bearer import InvalidToken
from .schemas import TokenRead
from .sessions import Grant
from .settings import AuthSettings

ALGORITHM = "HS256"
TYPE = "at+jwt"
LEEWAY = 10  # seconds that the clocks of two hosts may differ
CLAIMS = ["iss", "aud", "sub", "sid", "iat", "exp", "jti"]

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


@dataclass(frozen=True, slots=True)
class Claims:
    """What an access token says; whether its session goes on, only the database knows."""

    user_id: UUID
    session_id: UUID
    token_id: str


class Tokens:
    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._secrets = [part.strip() for part in settings.secret.get_secret_value().split(",")]

    def issue(self, grant: Grant) -> TokenRead:
        """Make an access token, which does not outlive its session."""
        now = utc_now()
        lifetime = timedelta(seconds=self._settings.access_token_lifetime)
        expires = min(now + lifetime, grant.session.expires_at)
        claims = {
            "iss": self._settings.issuer,
            "aud": self._settings.audience,
            "sub": str(grant.session.user_id),
            "sid": str(grant.session.id),
            "iat": now,
            "exp": expires,
            "jti": str(uuid4()),
        }
        return TokenRead(
            access_token=jwt.encode(claims, self._secrets[0], ALGORITHM, {"typ": TYPE}),
            refresh_token=grant.refresh_token,
            expires_in=int((expires - now).total_seconds()),
        )

    def verify(self, token: str) -> Claims:
        """Return what the token says, or raise `InvalidToken`.

        The first secret signs and all of them verify, so that a new one logs nobody out.
        """
        for secret in self._secrets:
            try:
                return self._verify(token, secret)
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidTokenError, ValueError) as error:
                raise refuse(error) from None
        raise refuse(jwt.InvalidSignatureError())

    def _verify(self, token: str, secret: str) -> Claims:
        decoded: dict[str, Any] = jwt.decode_complete(
            token,
            secret,
            [ALGORITHM],
            {"require": CLAIMS},
            issuer=self._settings.issuer,
            audience=self._settings.audience,
            leeway=LEEWAY,
        )
        if decoded["header"].get("typ") != TYPE:
            raise jwt.InvalidTokenError("not an access token")
        claims = decoded["payload"]
        return Claims(UUID(claims["sub"]), UUID(str(claims["sid"])), claims["jti"])


def refuse(error: Exception) -> InvalidToken:
    logger.info("token refused", reason=type(error).__name__)
    return InvalidToken()
