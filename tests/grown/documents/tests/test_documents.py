from httpx2 import AsyncClient

from .conftest import add_organization


async def test_documents_belong_to_an_organization(client: AsyncClient, other: AsyncClient) -> None:
    path = f"{await add_organization(client)}/documents"
    foreign = f"{await add_organization(other)}/documents"
    assert (await client.post(path, json={"name": "Plan"})).status_code == 201
    [document] = (await client.get(path)).json()["items"]
    assert document["name"] == "Plan"
    assert (await other.get(foreign)).json() == {"items": []}
    assert (await other.get(f"{foreign}/{document['id']}")).status_code == 404
    assert (await other.get(path)).status_code == 404
