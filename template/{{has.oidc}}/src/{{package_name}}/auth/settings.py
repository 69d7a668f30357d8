import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from ..groups import CommaSeparated, Group, Seconds, split_commas
from .client import make_client


def check_issuer(issuer: str) -> str:
    """Leave it as it is: the `iss` of a token has to be the same to the letter."""
    https = r"https://(\[[\da-fA-F:.]+\]|[\w.-]+)"
    local = r"http://(localhost|127\.0\.0\.1|\[::1\])"
    match = re.fullmatch(rf"({https}|{local})(:(?P<port>\d+))?(/[^?#\s]*)?", issuer)
    if not match or int(match["port"] or 443) > 65_535:
        raise ValueError("should be https://id.example.com/..., or http:// on this machine")
    make_client(issuer)
    return issuer


# Only those whose keys the provider alone can sign with.
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
Algorithms = Annotated[tuple[Algorithm, ...], NoDecode, BeforeValidator(split_commas)]

TokenType = Literal["JWT", "at+jwt"]
TokenTypes = Annotated[tuple[TokenType, ...], NoDecode, BeforeValidator(split_commas)]


class AuthSettings(Group):
    issuer: Annotated[str, AfterValidator(check_issuer)]
    audience: Annotated[CommaSeparated, Field(min_length=1)]
    algorithms: Annotated[Algorithms, Field(min_length=1)] = ("RS256", "PS256", "ES256", "EdDSA")
    token_types: Annotated[TokenTypes, Field(min_length=1)] = ("JWT", "at+jwt")
    max_token_lifetime: Seconds = 86_400
    roles_claim: str = "roles"
    scopes_claim: str = "scope"
    docs_client_id: str = ""
