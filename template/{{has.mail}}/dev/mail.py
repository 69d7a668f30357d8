"""Mail in development: the service writes it to files."""

import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def development_mail() -> Generator[dict[str, str]]:
    """Print where mail goes without MAIL_URL. There is no server to start."""
    print("Mail is written to .local/mail/", file=sys.stderr)
    yield {}
