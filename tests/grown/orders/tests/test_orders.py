from httpx2 import AsyncClient

LINES = [{"product": "Lamp", "quantity": 2}, {"product": "Bulb", "quantity": 4}]


async def test_an_order_is_created_and_shipped(client: AsyncClient, other: AsyncClient) -> None:
    response = await client.post("/v1/orders", json={"lines": LINES})
    assert response.status_code == 201
    order = response.json()
    assert order["status"] == "open"
    assert order["lines"] == LINES
    following = await client.post("/v1/orders", json={"lines": LINES})
    assert following.json()["number"] == order["number"] + 1
    ship = f"/v1/orders/{order['id']}/ship"
    assert (await other.post(ship)).status_code == 404
    assert (await client.post(ship)).json()["status"] == "shipped"
    page = (await client.get("/v1/orders")).json()
    assert page["items"] == [order | {"status": "shipped"}, following.json()]
    assert (await other.get("/v1/orders")).json()["items"] == []
