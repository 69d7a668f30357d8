from uuid import uuid4

import pytest
from httpx2 import AsyncClient


async def create(client: AsyncClient, items: str, name: str = "Lamp") -> dict[str, str]:
    response = await client.post(items, json={"name": name})
    assert response.status_code == 201
    return response.json()


async def test_a_created_item_can_be_read(client: AsyncClient, items: str) -> None:
    created = await client.post(items, json={"name": "Lamp", "description": "Brass"})
    assert created.status_code == 201
    item = created.json()
    assert item["name"] == "Lamp"
    assert item["description"] == "Brass"
    assert item["created_at"] == item["updated_at"]
    assert created.headers["Location"] == f"{items}/{item['id']}"

    read = await client.get(f"{items}/{item['id']}")
    assert read.status_code == 200
    assert read.json() == item


async def test_an_update_changes_only_the_given_fields(client: AsyncClient, items: str) -> None:
    item = await create(client, items)
    response = await client.patch(f"{items}/{item['id']}", json={"description": "Brass"})
    assert response.status_code == 200
    updated = response.json()
    assert updated["updated_at"] > item["updated_at"]
    assert updated == item | {"description": "Brass", "updated_at": updated["updated_at"]}
    assert (await client.get(f"{items}/{item['id']}")).json() == updated


async def test_a_deleted_item_is_not_found(client: AsyncClient, items: str) -> None:
    path = f"{items}/{(await create(client, items))['id']}"
    assert (await client.delete(path)).status_code == 204
    for response in [
        await client.get(path),
        await client.patch(path, json={"name": "Lamp"}),
        await client.delete(path),
    ]:
        assert response.status_code == 404


async def test_pages_follow_one_another(client: AsyncClient, items: str) -> None:
    created = [await create(client, items, f"Lamp {number}") for number in range(5)]
    names = [item["name"] for item in created]
    # An update may move the row in the table, but not in the pages.
    await client.patch(f"{items}/{created[0]['id']}", json={"description": "Brass"})
    listed: list[str] = []
    cursor: dict[str, str] = {}
    sizes: list[int] = []
    while True:
        page = (await client.get(items, params={"limit": 2, **cursor})).json()
        listed += [item["name"] for item in page["items"]]
        sizes.append(len(page["items"]))
        if page["next"] is None:
            break
        cursor = {"after": page["next"]}
    assert listed == names
    assert sizes == [2, 2, 1]


async def test_a_full_last_page_has_no_next(client: AsyncClient, items: str) -> None:
    await create(client, items)
    page = (await client.get(items, params={"limit": 1})).json()
    assert len(page["items"]) == 1
    assert page["next"] is None


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": -1}, {"limit": 101}, {"after": "first"}, {"offset": 10}]
)
async def test_pages_have_limits(
    client: AsyncClient, items: str, query: dict[str, str | int]
) -> None:
    assert (await client.get(items, params=query)).status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body.name"),
        ({"name": ""}, "body.name"),
        ({"name": "x" * 201}, "body.name"),
        ({"name": None}, "body.name"),
        ({"name": "Lamp", "description": "x" * 2001}, "body.description"),
        ({"name": "Lamp", "price": 1}, "body.price"),
    ],
)
async def test_an_invalid_item_is_refused(
    client: AsyncClient, items: str, body: dict[str, object], field: str
) -> None:
    response = await client.post(items, json=body)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]


@pytest.mark.parametrize(
    "changes", [{"name": None}, {"name": ""}, {"description": None}, {"id": ""}]
)
async def test_an_invalid_update_is_refused(
    client: AsyncClient, items: str, changes: dict[str, object]
) -> None:
    item = await create(client, items)
    response = await client.patch(f"{items}/{item['id']}", json=changes)
    assert response.status_code == 422
    assert (await client.get(f"{items}/{item['id']}")).json() == item


async def test_an_unknown_item_is_not_found(client: AsyncClient, items: str) -> None:
    response = await client.get(f"{items}/{uuid4()}")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"
