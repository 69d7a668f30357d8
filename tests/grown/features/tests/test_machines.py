from httpx2 import AsyncClient


async def test_a_machine_sends_its_key(anonymous: AsyncClient) -> None:
    response = await anonymous.get("/v1/machines/beat", headers={"X-Machine-Key": "machine-1"})
    assert response.json() == {"interval": 60}
    response = await anonymous.get("/v1/machines/beat", headers={"X-Machine-Key": "guess"})
    assert response.status_code == 403
    assert (await anonymous.get("/v1/machines/beat")).status_code == 401
