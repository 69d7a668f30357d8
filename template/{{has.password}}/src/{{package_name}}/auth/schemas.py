from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from email_validator import validate_email
from pydantic import (
    MISSING,
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Secret,
    ValidationInfo,
    field_validator,
)
from typing_extensions import TypeAliasType

from ..errors import Problem
from .passwords import MAX_LENGTH, MAX_RAW_LENGTH, MIN_LENGTH, check_password, check_words
from .principal import Principal

# With a name, which is that of its schema in the OpenAPI document.
Role = TypeAliasType("Role", Literal["user", "admin"])


def normalize_email(address: str) -> str:
    """Normalize an address, so that it has one account. Raise `ValueError` if it is invalid."""
    if len(address) > 254:  # RFC 5321, and before anything looks at each character
        raise ValueError("An email address has at most 254 characters.")
    return validate_email(address, check_deliverability=False).normalized.lower()


Email = Annotated[
    str, AfterValidator(normalize_email), Field(json_schema_extra={"format": "email"})
]
SecretText = Annotated[str, Field(json_schema_extra={"format": "password", "writeOnly": True})]
# With a limit, pydantic also refuses invalid Unicode, such as a lone surrogate.
Password = Annotated[SecretText, Field(max_length=MAX_RAW_LENGTH)]
NewPassword = Annotated[
    Password,
    AfterValidator(check_password),
    Field(json_schema_extra={"minLength": MIN_LENGTH, "maxLength": MAX_LENGTH}),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller(Principal):
    """A principal that is a user: a copy of the row's values, not an ORM object."""

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

    role: Role | MISSING = MISSING
    is_active: bool | MISSING = MISSING


class PasswordChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    current_password: Secret[Password]
    new_password: Secret[NewPassword]


NO_SECRET = Field(default_factory=lambda: Secret(""))


class TokenRequest(BaseModel):
    """A form as RFC 6749 sections 4.3.2 and 6 describe it; unknown fields are ignored (3.2)."""

    # Required in the OpenAPI document only: the service reports missing fields as OAuth 2.0 errors.
    model_config = ConfigDict(json_schema_extra={"required": ["grant_type"]})

    grant_type: str = Field(
        default_factory=str, json_schema_extra={"enum": ["password", "refresh_token"]}
    )
    username: str = Field(default_factory=str, description="The email address.")
    password: Secret[SecretText] = NO_SECRET
    refresh_token: Secret[SecretText] = NO_SECRET


class TokenRead(BaseModel):
    access_token: str
    refresh_token: str
    token_type: Literal["bearer"]
    expires_in: int = Field(description="Seconds.")


TokenErrorCode = Literal[
    "invalid_request", "invalid_grant", "unsupported_grant_type", "temporarily_unavailable"
]


class TokenProblem(Problem):
    """A problem document that is an error of OAuth 2.0, too (RFC 6749 section 5.2)."""

    error: TokenErrorCode
    error_description: str


class SessionRead(BaseModel):
    """A login session. Each refresh of its tokens changes `refreshed_at`."""

    id: UUID
    created_at: datetime
    refreshed_at: datetime
    expires_at: datetime
    user_agent: str  # of the login
    is_current: bool


class RevocationRequest(BaseModel):
    """A form as RFC 7009 section 2.1 describes it. `token_type_hint` is not needed, so ignored."""

    model_config = ConfigDict(json_schema_extra={"required": ["token"]})

    token: Secret[SecretText] = NO_SECRET
