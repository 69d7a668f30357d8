"""What any endpoint can ask for."""

from typing import Annotated

from fastapi import Depends

from .lifespan import Connection
from .settings import Settings
from .store import Store


async def get_settings(connection: Connection) -> Settings:
    return connection.state["settings"]


SettingsDep = Annotated[Settings, Depends(get_settings)]


async def get_store(connection: Connection) -> Store:
    return connection.state["store"]


StoreDep = Annotated[Store, Depends(get_store)]
