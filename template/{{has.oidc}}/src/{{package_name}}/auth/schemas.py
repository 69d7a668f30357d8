from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent the request, as the access token says; `claims` has all of it."""

    subject: str
    scopes: frozenset[str]
    roles: frozenset[str]
    claims: Mapping[str, Any]


Sorted = Annotated[list[str], BeforeValidator(sorted)]


class PrincipalRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    subject: str
    scopes: Sorted
    roles: Sorted
