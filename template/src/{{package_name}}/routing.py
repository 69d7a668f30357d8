"""The router of a feature."""

from fastapi import APIRouter
from starlette.routing import Match
from starlette.types import Scope


class Router(APIRouter):
    """Refuses at once a path without its prefix: FastAPI would compare it with each of its routes.

    Of 500 routes in 50 features, the last one is five times as fast for it. Not for `mount`, `host`
    and `add_route`, which ignore the prefix: use an `APIRouter`.
    """

    # fastapi/fastapi#16159 may make this superfluous.
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if self.prefix.partition("{")[0] not in scope["path"]:
            return Match.NONE, {}
        return super().matches(scope)
