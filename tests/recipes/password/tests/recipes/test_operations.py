from httpx2 import AsyncClient
from sqlalchemy import update

from my_service.auth.models import User
from my_service.lifespan import State


async def test_only_administrators_reach_the_router(
    anonymous: AsyncClient, client: AsyncClient, isolated: State
) -> None:
    assert (await anonymous.get("/v1/operations/report")).status_code == 401
    assert (await client.get("/v1/operations/report")).status_code == 403
    async with isolated["database"].write.begin() as session:
        await session.execute(update(User).values(role="admin"))
    assert (await client.get("/v1/operations/report")).json() == {"status": "ok"}
