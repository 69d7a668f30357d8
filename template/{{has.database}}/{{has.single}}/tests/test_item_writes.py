import asyncio

from httpx2 import AsyncClient


async def test_items_that_are_created_at_once_are_all_stored(committed: AsyncClient) -> None:
    names = {f"Lamp {number}" for number in range(10)}
    requests = [committed.post("/v1/items", json={"name": name}) for name in names]
    responses = await asyncio.gather(*requests)
    assert {response.status_code for response in responses} == {201}
    page = (await committed.get("/v1/items")).json()
    assert {item["name"] for item in page["items"]} == names
