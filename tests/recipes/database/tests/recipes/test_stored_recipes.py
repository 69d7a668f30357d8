"""The recipes with a database, tested through HTTP."""

import asyncio
import json
from typing import Any
from uuid import UUID

import alembic.command
import pytest
from httpx2 import AsyncClient
from sqlalchemy import URL, text
from sqlalchemy.exc import InvalidRequestError

from my_service.albums.models import Album
from my_service.database_settings import parse_database_url
from my_service.engine import make_engine
from my_service.lifespan import State
from my_service.schema import make_config

from ..conftest import execute
from .signing import BODY, sign

READ_STATES = "SELECT CAST(state AS text) FROM tasks ORDER BY 1"
ADD_LATE_TASK = """
    INSERT INTO tasks (id, created_at, updated_at, title, state)
    VALUES (gen_random_uuid(), now(), now(), 'Sweep', 'late')
"""


async def list_states(url: URL) -> list[str]:
    engine = make_engine(url)
    try:
        async with engine.connect() as connection:
            return [*await connection.scalars(text(READ_STATES))]
    finally:
        await engine.dispose()


async def create_task(client: AsyncClient, title: str, state: str = "open") -> dict[str, Any]:
    response = await client.post("/v1/tasks", json={"title": title, "state": state})
    assert response.status_code == 201
    return response.json()


async def list_titles(client: AsyncClient, **parameters: str | int) -> list[str]:
    """Return the items of all pages."""
    titles: list[str] = []
    while True:
        page = (await client.get("/v1/tasks", params=parameters)).json()
        titles += [task["title"] for task in page["items"]]
        if page["next"] is None:
            return titles
        parameters["after"] = page["next"]


async def test_an_enum_is_stored_as_its_value(client: AsyncClient, isolated: State) -> None:
    assert (await create_task(client, "Sweep", "done"))["state"] == "done"
    async with isolated["database"].read() as session:
        assert [*await session.scalars(text(READ_STATES))] == ["done"]
    assert (await create_task(client, "Mow", "late"))["state"] == "late"
    assert (await client.post("/v1/tasks", json={"title": "x", "state": "x"})).status_code == 422


def test_a_new_value_of_an_enum_goes_up_and_down(scratch_url: str) -> None:
    url = parse_database_url(scratch_url)
    config = make_config(url)
    alembic.command.upgrade(config, "heads")
    asyncio.run(execute(url, ADD_LATE_TASK))
    assert asyncio.run(list_states(url)) == ["late"]
    alembic.command.downgrade(config, "app@-1")
    assert asyncio.run(list_states(url)) == ["open"]
    alembic.command.upgrade(config, "heads")
    asyncio.run(execute(url, ADD_LATE_TASK))
    assert asyncio.run(list_states(url)) == ["late", "open"]


ALBUM = {"title": "Blue", "tracks": [{"title": "River"}, {"title": "California"}]}


async def test_a_relation_is_loaded_where_a_query_says_so(
    client: AsyncClient, isolated: State
) -> None:
    album_id = (await client.post("/v1/albums", json=ALBUM)).json()
    assert (await client.get(f"/v1/albums/{album_id}")).json() == ALBUM
    async with isolated["database"].read() as session:
        album = await session.get_one(Album, UUID(album_id))
        with pytest.raises(InvalidRequestError, match=r"'Album\.tracks' is not available"):
            _ = album.tracks


async def test_a_relation_is_deleted_with_its_parent(client: AsyncClient, isolated: State) -> None:
    album = f"/v1/albums/{(await client.post('/v1/albums', json=ALBUM)).json()}"
    assert (await client.delete(album)).status_code == 204
    assert (await client.get(album)).status_code == 404
    async with isolated["database"].read() as session:
        assert await session.scalar(text("SELECT count(*) FROM tracks")) == 0


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_are_sorted_and_filtered(client: AsyncClient, limit: int) -> None:
    for title in ("Sweep", "Mow", "Sweep", "Iron", "Sweep", "Mow"):
        await create_task(client, title)
    await create_task(client, "Lock", "done")
    open_titles = ["Iron", "Mow", "Mow", "Sweep", "Sweep", "Sweep"]
    assert await list_titles(client, sort="title", state="open", limit=limit) == open_titles
    titles = ["Sweep", "Mow", "Sweep", "Iron", "Sweep", "Mow", "Lock"]
    assert await list_titles(client, limit=limit) == titles
    assert await list_titles(client, sort="title", state="done", limit=limit) == ["Lock"]


async def test_a_page_after_a_task_that_was_deleted_does_not_exist(client: AsyncClient) -> None:
    task = await create_task(client, "Sweep")
    assert (await client.delete(f"/v1/tasks/{task['id']}")).status_code == 204
    response = await client.get("/v1/tasks", params={"after": task["id"], "sort": "title"})
    assert response.status_code == 404


async def create_note(client: AsyncClient) -> str:
    return f"/v1/notes/{(await client.post('/v1/notes', json={'text': 'Draft'})).json()}"


async def test_a_stale_etag_is_refused(client: AsyncClient) -> None:
    note = await create_note(client)
    stale = {"If-Match": (await client.get(note)).headers["ETag"]}
    response = await client.put(note, json={"text": "First"}, headers=stale)
    assert (response.status_code, response.json()) == (200, {"text": "First"})
    current = {"If-Match": response.headers["ETag"]}
    assert (await client.get(note)).headers["ETag"] == current["If-Match"]
    response = await client.put(note, json={"text": "Second"}, headers=stale)
    assert response.status_code == 412
    assert (await client.get(note)).json() == {"text": "First"}
    assert (await client.put(note, json={"text": "x"}, headers=current)).status_code == 200
    assert (await client.put(note, json={"text": "x"})).status_code == 422


async def test_of_two_changes_at_once_one_is_refused(committed: AsyncClient) -> None:
    note = await create_note(committed)
    for number in range(5):
        headers = {"If-Match": (await committed.get(note)).headers["ETag"]}
        responses = await asyncio.gather(
            *(
                committed.put(note, json={"text": f"{number} {letter}"}, headers=headers)
                for letter in "abc"
            )
        )
        assert sorted(response.status_code for response in responses) == [200, 412, 412]


async def test_synchronous_code_runs_in_the_transaction(client: AsyncClient) -> None:
    for state in ("open", "done", "open"):
        await create_task(client, "Sweep", state)
    assert (await client.get("/v1/report")).json() == {"open": 2, "done": 1}


async def test_a_stream_has_all_rows(client: AsyncClient) -> None:
    tasks = [await create_task(client, f"Task {number}") for number in range(101)]
    response = await client.get("/v1/tasks/export")
    assert response.headers["Content-Type"] == "application/jsonl"
    assert [json.loads(line) for line in response.text.splitlines()] == tasks


async def test_an_event_that_comes_again_is_stored_once(
    sender: AsyncClient, isolated: State
) -> None:
    headers = sign(BODY)
    for event in (headers, headers, sign(BODY)):
        response = await sender.post("/v1/events", content=BODY, headers=event)
        assert response.status_code == 204
    async with isolated["database"].read() as session:
        keys = [*await session.scalars(text("SELECT event_id FROM events ORDER BY created_at"))]
    assert keys == [headers["webhook-id"], event["webhook-id"]]
