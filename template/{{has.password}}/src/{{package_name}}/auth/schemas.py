from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from email_validator import validate_email
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Secret,
    ValidationInfo,
    field_validator,
)

from .passwords import MAX_LENGTH, MAX_RAW_LENGTH, MIN_LENGTH, check_password, check_words
from .principal import Principal

Role = Literal["user", "admin"]


def normalize_email(address: str) -> str:
    """One account per address, however it is typed. Raise `ValueError` for what is none."""
    if len(address) > 254:  # RFC 5321, and before anything looks at each character
        raise ValueError("An email address has at most 254 characters.")
    return validate_email(address, check_deliverability=False).normalized.lower()


Email = Annotated[
    str, AfterValidator(normalize_email), Field(json_schema_extra={"format": "email"})
]
# A limit also makes pydantic refuse what is no Unicode, such as half a character.
Password = Annotated[str, Field(max_length=MAX_RAW_LENGTH)]
NewPassword = Annotated[
    Password,
    AfterValidator(check_password),
    Field(json_schema_extra={"minLength": MIN_LENGTH, "maxLength": MAX_LENGTH}),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller(Principal):
    """A principal that is a user, without a live row behind it."""

    email: str
    role: Role
    session_id: UUID


class UserCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: Email
    password: Secret[NewPassword]

    @field_validator("password")
    @classmethod
    def check_for_email(cls, password: Secret[str], info: ValidationInfo) -> Secret[str]:
        check_words(password.get_secret_value(), info.data.get("email", ""))
        return password


class UserRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    role: Role


class AccountRead(UserRead):
    """What administrators see."""

    is_active: bool
    created_at: datetime
    updated_at: datetime


class AccountUpdate(BaseModel):
    """A field that is left out keeps its value; null is refused."""

    model_config = ConfigDict(extra="forbid")

    # Defaults that are never used: only what is set is written.
    role: Role = "user"
    is_active: bool = True


class PasswordChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    current_password: Secret[Password]
    new_password: Secret[NewPassword]


class TokenRequest(BaseModel):
    """A form as RFC 6749 sections 4.3.2 and 6 describe it; unknown fields are ignored (3.2)."""

    # Nothing is required here: the service says in the words of the RFC what is missing.
    grant_type: str = ""
    username: str = ""
    password: Secret[str] = Field(default_factory=lambda: Secret(""))
    refresh_token: Secret[str] = Field(default_factory=lambda: Secret(""))


class TokenRead(BaseModel):
    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int  # seconds


class SessionRead(BaseModel):
    """A login session. Each refresh of its tokens changes `refreshed_at`."""

    id: UUID
    created_at: datetime
    refreshed_at: datetime
    expires_at: datetime
    user_agent: str  # of the log-in
    is_current: bool


class RevocationRequest(BaseModel):
    """A form as RFC 7009 section 2.1 describes it. The kind of token is seen without its hint."""

    token: Secret[str] = Field(default_factory=lambda: Secret(""))
