import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from ..groups import CommaSeparated, Group, Seconds, split_commas
from ..middleware import normalize_host
from .client import make_client

TENANT = "{tenantid}"  # in the issuer that Entra ID publishes for all its tenants


ORIGIN = r"https?://(?P<host>\[[0-9a-fA-F:.]+\]|[0-9A-Za-z_.-]+)(:(?P<port>[0-9]+))?"


def is_url(url: str, path: str) -> bool:
    """Whether a URL is usable, and the part after its origin matches the pattern `path`."""
    match = re.fullmatch(ORIGIN + path, url)
    if match is None or not 1 <= int(match["port"] or 443) <= 65_535:
        return False
    try:
        normalize_host(match["host"])
    except ValueError:
        return False
    return True


def check_issuer(issuer: str) -> str:
    """Do not normalize the issuer: the `iss` of a token has to match it exactly."""
    if not is_url(issuer.replace(f"/{TENANT}/", "/-/"), r"(/[^?#\s{}]*)?"):
        raise ValueError("should be https://id.example.com/..., or http:// in development")
    make_client(issuer)
    return issuer


def check_metadata_url(url: str) -> str:
    if url and not is_url(url, r"/[^#\s{}]*"):
        raise ValueError("should be https://id.example.com/.well-known/openid-configuration")
    make_client(url)
    return url


def check_tenant(tenant: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z-]+", tenant):
        raise ValueError("should be ids of tenants, not their names")
    return tenant


# Asymmetric algorithms only: with them, nobody but the provider can sign.
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
Algorithms = Annotated[tuple[Algorithm, ...], NoDecode, BeforeValidator(split_commas)]

TokenType = Literal["JWT", "at+jwt"]
TokenTypes = Annotated[tuple[TokenType, ...], NoDecode, BeforeValidator(split_commas)]

Tenant = Annotated[str, AfterValidator(check_tenant)]
Tenants = Annotated[tuple[Tenant, ...], NoDecode, BeforeValidator(split_commas)]


class AuthSettings(Group):
    issuer: Annotated[str, AfterValidator(check_issuer)]
    metadata_url: Annotated[str, AfterValidator(check_metadata_url)] = ""
    tenants: Tenants = ()
    audience: Annotated[CommaSeparated, Field(min_length=1)]
    audience_claim: Literal["aud", "client_id"] = "aud"
    algorithms: Annotated[Algorithms, Field(min_length=1)] = ("RS256", "PS256", "ES256", "EdDSA")
    token_types: Annotated[TokenTypes, Field(min_length=1)] = ("JWT", "at+jwt")
    max_token_lifetime: Seconds = 86_400
    roles_claim: str = "roles"
    scopes_claim: str = "scope"
    docs_client_id: str = ""

    @property
    def issuers(self) -> tuple[str, ...]:
        """What the `iss` of a token may be."""
        return tuple(self.issuer.replace(TENANT, tenant) for tenant in self.tenants or ("",))

    @property
    def discovery_url(self) -> str:
        """Where the provider describes itself (OpenID Connect Discovery, section 4)."""
        path = "/.well-known/openid-configuration"
        return self.metadata_url or self.issuer.removesuffix("/") + path

    @model_validator(mode="after")
    def check_tenants(self) -> Self:
        if TENANT in self.issuer and not (self.tenants and self.metadata_url):
            raise ValueError(
                f"AUTH_ISSUER has {TENANT}: set AUTH_TENANTS to the tenants that may call, "
                "and AUTH_METADATA_URL; or use the issuer of one tenant"
            )
        if self.tenants and TENANT not in self.issuer:
            raise ValueError(f"AUTH_TENANTS has no effect: AUTH_ISSUER lacks /{TENANT}/")
        return self

    def check_for_production(self) -> None:
        if not self.discovery_url.startswith("https:"):
            name = "AUTH_METADATA_URL" if self.metadata_url else "AUTH_ISSUER"
            raise ValueError(f"{name} should be https://...; http:// is for development only")
