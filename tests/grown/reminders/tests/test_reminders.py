from httpx2 import AsyncClient


async def test_a_job_writes_the_reminder(client: AsyncClient) -> None:
    response = await client.post("/v1/reminders", json={"text": "pay"})
    assert response.status_code == 202
    assert (await client.get("/v1/reminders")).json() == ["pay"]
