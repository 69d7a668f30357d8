from httpx2 import AsyncClient


async def test_a_note_is_kept(client: AsyncClient, other: AsyncClient) -> None:
    item = (await client.post("/v1/items", json={"name": "Lamp"})).json()
    notes = f"/v1/items/{item['id']}/notes"
    response = await client.post(notes, json={"text": "Bright."})
    assert response.status_code == 201
    assert (await client.get(notes)).json() == [{"text": "Bright."}]
    assert (await other.get(notes)).status_code == 404
