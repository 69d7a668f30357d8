"""The HTTP client for requests to the provider."""

import os
import re

from httpx2 import AsyncClient, InvalidURL

from ..groups import check_certificates

PROXIES = re.compile("(ALL|HTTPS?|NO)_PROXY", re.IGNORECASE)


def make_client(issuer: str) -> AsyncClient:
    """Make a client with the certificates and the proxy of the environment.

    Raise `ValueError` if they cannot be used.
    """
    if not issuer.startswith("https:"):  # in development, so without a proxy
        return AsyncClient(follow_redirects=False, trust_env=False)
    check_certificates()
    try:
        return AsyncClient(follow_redirects=False)
    except (ImportError, InvalidURL, ValueError):
        # The error is left out, because it may contain the password of the proxy.
        names = ", ".join(sorted(filter(PROXIES.fullmatch, os.environ)))
        raise ValueError(f"needs a proxy with http:// or https:// in {names}") from None
