import re
from email.headerregistry import Address

from email_validator import EmailNotValidError, validate_email


def parse_address(text: str) -> Address:
    """Return an address with its domain in ASCII (IDNA), or raise `ValueError`.

    The part before the @ may be quoted, and may contain other characters than ASCII (RFC 6531). A
    name before the address is refused. The domain is not looked up.
    """
    try:
        valid = validate_email(text, allow_quoted_local=True, check_deliverability=False)
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None
    local = valid.local_part
    if local.startswith('"'):  # `Address` adds the quotes again
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return Address("", local, valid.ascii_domain)
