"""Requests of somebody who wants to see the rows of another organization."""

import re
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from httpx2 import AsyncClient

from .conftest import get_id

# What a body needs to be valid, besides values of its types.
VALUES: dict[str, Any] = {
    "name": "Mine",
    "role": "member",
    "email": "eve@example.com",
}
BY_TYPE: dict[str, Any] = {"string": "x", "integer": 1, "number": 1, "boolean": True, "array": []}
Operation = tuple[str, str, dict[str, Any]]


def list_operations(app: FastAPI) -> list[Operation]:
    """List the method, the path and a valid body of each operation below an organization."""
    document = app.openapi()
    operations: list[Operation] = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            content = operation.get("requestBody", {}).get("content", {})
            reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
            schema = document["components"]["schemas"].get(reference.rpartition("/")[2], {})
            properties = schema.get("properties", {})
            body = {
                name: VALUES.get(name, BY_TYPE.get(properties[name].get("type", "")))
                for name in schema.get("required", ())
            }
            if "{organization_id}" in path:
                operations.append((method, path, body))
    return operations


async def add_rows(
    operations: list[Operation], client: AsyncClient, organization: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Add a row of each kind. Return the ids by the parameter of a path, and by its list."""
    ids = {"organization_id": str(get_id(organization))}
    lists: dict[str, str] = {}
    bodies = {path: body for method, path, body in operations if method == "post"}
    for _, path, _ in operations:
        match = re.fullmatch(r"(.*)/\{(\w+)\}", path)
        if match and match[2] not in ids:
            url = fill(match[1], ids)
            if match[1] in bodies:
                await client.post(url, json=bodies[match[1]])
            response = await client.get(url)
            rows = response.json().get("items") if response.is_success else None
            if rows:
                lists[match[1]] = ids[match[2]] = rows[-1]["id"]
    return ids, lists


def fill(path: str, ids: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: ids.get(match[1], str(uuid4())), path)


async def check_all_routes(
    app: FastAPI, client: AsyncClient, other: AsyncClient, organization: str, foreign: str
) -> None:
    """`other` gets nothing of the organization of `client`, by no route and with no id."""
    operations = list_operations(app)
    ids, lists = await add_rows(operations, client, organization)
    own_ids, _ = await add_rows(operations, other, foreign)
    assert {"member_id", "invitation_id"} <= ids.keys()
    before = await read_all(operations, client, ids)
    for method, path, body in operations:
        query = "?name=Acme" if method == "delete" else ""
        options: dict[str, Any] = {"json": body} if method in {"post", "patch", "put"} else {}
        url = fill(path, ids)
        response = await other.request(method.upper(), url + query, **options)
        assert response.status_code == 404, (method, url, response.text)
        # Rows of the organization of `client`, in the organization of `other`.
        own_url = fill(path, ids | {"organization_id": own_ids["organization_id"]})
        if set(ids.values()).intersection(own_url.split("/")):
            response = await other.request(method.upper(), own_url + query, **options)
            assert response.status_code < 500, (method, own_url, response.text)
            is_list = response.is_success and response.json() == {"items": [], "next": None}
            assert response.is_client_error or is_list, (method, own_url, response.text)
    # A cursor that is the id of somebody else's row shows only one's own rows.
    for path, after in lists.items():
        for limit in (1, 100):
            url = fill(path, own_ids)
            page = await other.get(url, params={"after": after, "limit": limit})
            assert {row["id"] for row in page.json()["items"]} <= {*own_ids.values()}
    assert await read_all(operations, client, ids) == before


async def read_all(
    operations: list[Operation], client: AsyncClient, ids: dict[str, str]
) -> list[str]:
    paths = [path for method, path, _ in operations if method == "get"]
    return [(await client.get(fill(path, ids))).text for path in paths]
