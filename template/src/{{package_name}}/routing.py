"""The router of a feature."""

from fastapi import APIRouter
from starlette.routing import Match
from starlette.types import Scope


class Router(APIRouter):
    """Passed by when its prefix is not in the path, with which all its paths begin.

    FastAPI would compare the path with each of its routes, 4 µs each: 500 in front of the one that
    is asked for make it six times as slow.
    """

    # fastapi/fastapi#16159 may make this superfluous.
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if self.prefix.partition("{")[0] not in scope["path"]:
            return Match.NONE, {}
        return super().matches(scope)
