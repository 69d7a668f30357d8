from httpx2 import AsyncClient


async def test_a_rate_is_cached_and_limited(client: AsyncClient) -> None:
    assert (await client.get("/v1/rates/CHF")).json() is None
    rate = {"currency": "CHF", "euros": 1.1}
    assert (await client.put("/v1/rates", json=rate)).status_code == 204
    for remaining in (2, 1, 0):
        response = await client.get("/v1/rates/CHF")
        assert response.json() == rate
        assert response.headers["RateLimit"].startswith(f'"rates";r={remaining};')
    assert (await client.get("/v1/rates/CHF")).status_code == 429
