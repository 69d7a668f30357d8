from httpx2 import AsyncClient


async def test_items_of_others_do_not_exist(client: AsyncClient, other: AsyncClient) -> None:
    item = (await client.post("/v1/items", json={"name": "Lamp"})).json()
    path = f"/v1/items/{item['id']}"

    assert (await other.get("/v1/items")).json() == {"items": [], "next": None}
    for response in [
        await other.get(path),
        await other.patch(path, json={"name": "Mine"}),
        await other.delete(path),
    ]:
        assert response.status_code == 404
    assert (await client.get(path)).json() == item


async def test_items_need_a_token(anonymous: AsyncClient) -> None:
    assert (await anonymous.get("/v1/items")).status_code == 401
    assert (await anonymous.post("/v1/items", json={"name": "Lamp"})).status_code == 401
