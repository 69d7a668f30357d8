"""Access tokens: JWTs of the type `at+jwt`, signed and verified by this service alone."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import jwt

from ..database import utc_now
from ..settings import AuthSettings
from .bearer import InvalidToken
from .schemas import TokenRead

ALGORITHM = "HS256"
TYPE = "at+jwt"
CLAIMS = ["iss", "aud", "sub", "iat", "exp", "jti"]


class Tokens:
    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._secrets = [part.strip() for part in settings.secret.get_secret_value().split(",")]

    def issue(self, user_id: UUID) -> TokenRead:
        now = utc_now()
        lifetime = self._settings.access_token_lifetime
        claims = {
            "iss": self._settings.issuer,
            "aud": self._settings.audience,
            "sub": str(user_id),
            "iat": now,
            "exp": now + timedelta(seconds=lifetime),
            "jti": str(uuid4()),
        }
        token = jwt.encode(claims, self._secrets[0], ALGORITHM, {"typ": TYPE})
        return TokenRead(access_token=token, expires_in=lifetime)

    def verify(self, token: str) -> UUID:
        """Return the id of the user, or raise `InvalidToken`.

        The first secret signs and all of them verify, so that a new one logs nobody out.
        """
        for secret in self._secrets:
            try:
                return self._verify(token, secret)
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidTokenError, ValueError) as error:
                raise InvalidToken from error
        raise InvalidToken

    def _verify(self, token: str, secret: str) -> UUID:
        decoded: dict[str, Any] = jwt.decode_complete(
            token,
            secret,
            [ALGORITHM],
            {"require": CLAIMS},
            issuer=self._settings.issuer,
            audience=self._settings.audience,
        )
        if decoded["header"].get("typ") != TYPE:
            raise jwt.InvalidTokenError("not an access token")
        return UUID(decoded["payload"]["sub"])
