from httpx2 import AsyncClient

from dev.provider import Provider


async def test_only_administrators_reach_the_router(
    anonymous: AsyncClient, client: AsyncClient, provider: Provider
) -> None:
    assert (await anonymous.get("/v1/operations/report")).status_code == 401
    assert (await client.get("/v1/operations/report")).status_code == 403
    token = provider.sign(provider.make_claims("grace", roles=["admin"]))
    client.headers["Authorization"] = f"Bearer {token}"
    assert (await client.get("/v1/operations/report")).json() == {"status": "ok"}
