"""Email addresses in requests."""

from typing import Annotated

from email_validator import validate_email
from pydantic import AfterValidator, Field


def normalize_email(address: str) -> str:
    """Normalize an address, so that it has one account. Raise `ValueError` if it is invalid."""
    if len(address) > 254:  # RFC 5321, and before anything looks at each character
        raise ValueError("An email address has at most 254 characters.")
    return validate_email(address, check_deliverability=False).normalized.lower()


Email = Annotated[
    str, AfterValidator(normalize_email), Field(json_schema_extra={"format": "email"})
]
