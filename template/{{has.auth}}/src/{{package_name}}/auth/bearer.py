"""The bearer token of a request (RFC 6750), and what its sender is told when it is refused."""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.datastructures import Headers

from ..errors import AppError
from ..errors import Forbidden as Forbidden  # for code that imports it from here


class InvalidToken(AppError):
    status = HTTPStatus.UNAUTHORIZED
    type = "urn:problem-type:invalid-token"
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    detail = "The access token is not valid."


def read_token(headers: Headers) -> str | None:
    """Return the token, or None without credentials. Raise `InvalidToken` for another scheme.

    Two headers are refused, since a proxy may have checked the other one.
    """
    credentials = headers.getlist("Authorization")
    if not credentials:
        return None
    scheme, _, token = credentials[0].partition(" ")
    if len(credentials) > 1 or scheme.lower() != "bearer":
        raise InvalidToken
    return token
