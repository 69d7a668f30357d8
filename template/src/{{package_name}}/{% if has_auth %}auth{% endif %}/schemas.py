from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field, SecretStr

Role = Literal["user", "admin"]

# One account per address, however it is typed.
Email = Annotated[EmailStr, AfterValidator(str.lower)]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent the request: all that an endpoint needs to know, without a live row behind it."""

    id: UUID
    email: str
    role: Role


class UserCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: Email
    password: SecretStr = Field(min_length=12, max_length=128)


class UserRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    role: Role


class TokenRequest(BaseModel):
    """A form as RFC 6749 §4.3.2 describes it. Unknown fields are ignored (§3.2).

    The defaults let the service say what is missing in the words of the RFC.
    """

    grant_type: str = ""
    username: str = ""
    password: SecretStr = SecretStr("")


class TokenRead(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int  # seconds
