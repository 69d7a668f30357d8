"""Mail in development: the service writes it to files."""

import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def development_mail() -> Generator[dict[str, str]]:
    """Print where messages go while MAIL_URL is not set. No server is started."""
    print("Mail is written to .local/mail/", file=sys.stderr)
    yield {}
