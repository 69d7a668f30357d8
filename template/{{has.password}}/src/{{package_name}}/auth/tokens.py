"""Access tokens: JWTs of the type `at+jwt` (RFC 9068), which this service signs and verifies.

Device tokens are JWTs of another type. They prove that a client has logged in to an account before.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
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
DEVICE_TYPE = "device+jwt"
DEVICE_LIFETIME = timedelta(days=90)
LEEWAY = 10  # seconds that the clocks of two hosts may differ
CLAIMS = ["iss", "aud", "sub", "iat", "exp", "jti"]

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of an access token. Its session may have ended: only the database knows."""

    user_id: UUID
    session_id: UUID
    token_id: str


@dataclass(frozen=True, slots=True)
class DeviceClaims:
    """The claims of a device token: its client has logged in as this user with this password."""

    user_id: UUID
    password: str  # the `fingerprint` of its hash


class Tokens:
    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._secrets = [part.strip() for part in settings.secret.get_secret_value().split(",")]

    def issue(self, grant: Grant) -> TokenRead:
        """Make an access token that expires no later than its session."""
        now = utc_now()
        lifetime = timedelta(seconds=self._settings.access_token_lifetime)
        expires = min(now + lifetime, grant.login.expires_at)
        sid = str(grant.login.id)
        return TokenRead(
            access_token=self._sign(TYPE, grant.login.user_id, now, expires, sid=sid),
            refresh_token=grant.refresh_token,
            token_type="bearer",  # noqa: S106
            expires_in=int((expires - now).total_seconds()),
        )

    def issue_device_token(self, user_id: UUID, password_hash: str) -> str:
        """Make a token that is valid until the password changes."""
        now = utc_now()
        password = fingerprint(password_hash)
        return self._sign(DEVICE_TYPE, user_id, now, now + DEVICE_LIFETIME, pwd=password)

    def _sign(self, kind: str, user_id: UUID, now: datetime, expires: datetime, **more: str) -> str:
        claims = {
            "iss": self._settings.issuer,
            "aud": self._settings.audience,
            "sub": str(user_id),
            "iat": now,
            "exp": expires,
            "jti": str(uuid4()),
        }
        return jwt.encode(claims | more, self._secrets[0], ALGORITHM, {"typ": kind})

    def verify(self, token: str) -> Claims:
        """Return the claims of an access token, or raise `InvalidToken`."""
        try:
            claims = self._verify(token, TYPE)
            return Claims(UUID(claims["sub"]), UUID(str(claims.get("sid"))), claims["jti"])
        except (jwt.InvalidTokenError, ValueError) as error:
            logger.info("token refused", reason=type(error).__name__)
            raise InvalidToken from None

    def verify_device_token(self, token: str) -> DeviceClaims | None:
        with suppress(jwt.InvalidTokenError, ValueError):
            claims = self._verify(token, DEVICE_TYPE)
            return DeviceClaims(UUID(claims["sub"]), str(claims.get("pwd")))
        return None

    def _verify(self, token: str, kind: str) -> dict[str, Any]:
        """Try all secrets. Only the first one signs, so a new one does not log anybody out."""
        for secret in self._secrets:
            with suppress(jwt.InvalidSignatureError):
                decoded: dict[str, Any] = jwt.decode_complete(
                    token,
                    secret,
                    [ALGORITHM],
                    {"require": CLAIMS},
                    issuer=self._settings.issuer,
                    audience=self._settings.audience,
                    leeway=LEEWAY,
                )
                if decoded["header"].get("typ") != kind:
                    raise jwt.InvalidTokenError("a token of another type")
                return decoded["payload"]
        raise jwt.InvalidSignatureError


def fingerprint(password_hash: str) -> str:
    return sha256(password_hash.encode()).hexdigest()[:16]
