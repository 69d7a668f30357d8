from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from email_validator import validate_email
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Secret

Role = Literal["user", "admin"]


def normalize_email(address: str) -> str:
    """One account per address, however it is typed. Raise `ValueError` for what is none."""
    return validate_email(address, check_deliverability=False).normalized.lower()


Email = Annotated[
    str, AfterValidator(normalize_email), Field(json_schema_extra={"format": "email"})
]
Password = Annotated[str, Field(min_length=12, max_length=128)]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent the request: all that an endpoint needs to know, without a live row behind it."""

    id: UUID
    email: str
    role: Role


class UserCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: Email
    password: Secret[Password]


class UserRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    role: Role


class TokenRequest(BaseModel):
    """A form as RFC 6749 section 4.3.2 describes it; unknown fields are ignored (section 3.2)."""

    # Nothing is required here: the service says in the words of the RFC what is missing.
    grant_type: str = ""
    username: str = ""
    password: Secret[str] = Field(default_factory=lambda: Secret(""))


class TokenRead(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int  # seconds
