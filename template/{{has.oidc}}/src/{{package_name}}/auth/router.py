from typing import Any

from fastapi import FastAPI

from ..routing import Router
from .dependencies import CurrentPrincipal, bearer
from .principal import Principal
from .schemas import PrincipalRead
from .settings import AuthSettings

router = Router(prefix="/auth", tags=["auth"])


@router.get("/me", response_model=PrincipalRead)
async def get_me(principal: CurrentPrincipal) -> Principal:
    return principal


def add_auth(app: FastAPI, settings: AuthSettings) -> None:
    """Add the endpoints, and the login at the provider to the interactive docs."""
    app.include_router(router, prefix="/v1")
    make_document = app.openapi

    def make_document_with_provider() -> dict[str, Any]:
        document = make_document()
        scheme = document["components"]["securitySchemes"][bearer.scheme_name]
        if settings.model_fields_set:  # The command `openapi` has no settings.
            scheme["openIdConnectUrl"] = settings.discovery_url
        return document

    # This is how FastAPI's documentation extends the document.
    app.openapi = make_document_with_provider  # pyrefly: ignore[method-assign]
    if settings.docs_client_id:
        app.swagger_ui_init_oauth = {
            "clientId": settings.docs_client_id,
            "usePkceWithAuthorizationCodeGrant": True,
            "scopes": "openid",
            # Some providers issue a token for an API only if the request names it.
            "additionalQueryStringParams": {"audience": settings.audience[0]},
        }
