from typing import Annotated

from fastapi import Depends

from .service import Cache
from .state import CacheConnection


async def get_cache(connection: CacheConnection) -> Cache:
    return connection.state["cache"]


CacheDep = Annotated[Cache, Depends(get_cache)]
