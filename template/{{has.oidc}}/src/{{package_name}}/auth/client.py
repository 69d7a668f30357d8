"""The HTTP client that asks the provider."""

import os
import re

from httpx2 import AsyncClient, InvalidURL

from ..groups import check_certificates

PROXIES = re.compile("(ALL|HTTPS?|NO)_PROXY", re.IGNORECASE)


def make_client(issuer: str) -> AsyncClient:
    """Make a client with the certificates and the proxy that the environment names.

    Raise `ValueError` if they cannot be used.
    """
    if not issuer.startswith("https:"):  # on this machine or beside it, so not behind a proxy
        return AsyncClient(follow_redirects=False, trust_env=False)
    check_certificates()
    try:
        return AsyncClient(follow_redirects=False)
    except (ImportError, InvalidURL, ValueError):
        # Not with the error, which may quote the password of the proxy.
        names = ", ".join(sorted(filter(PROXIES.fullmatch, os.environ)))
        raise ValueError(f"needs a proxy with http:// or https:// in {names}") from None
