import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt
from pydantic_settings import NoDecode

from ..groups import CommaSeparated, Group, split_commas


def check_issuer(issuer: str) -> str:
    """Leave it as it is: the `iss` of a token has to be the same to the letter."""
    https, local = r"https://[^/?#@\s]+", r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
    if not re.fullmatch(rf"({https}|{local})(/[^?#\s]*)?", issuer):
        raise ValueError("should be https://id.example.com/..., or http:// on this machine")
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
    max_token_lifetime: PositiveInt = 86_400  # seconds
    roles_claim: str = "roles"
    scopes_claim: str = "scope"
    docs_client_id: str = ""
