"""The recipes, tested through HTTP."""

import asyncio
import os
import tempfile
from io import BytesIO
from pathlib import Path
from threading import Event, Semaphore
from zipfile import ZipFile

import pytest
from anyio import to_thread
from fastapi import FastAPI
from httpx2 import AsyncClient, MockTransport, Request, Response

from my_service.comments.router import get_notifier
from my_service.comments.service import Notifier
from my_service.pictures.router import get_picture_service
from my_service.pictures.service import MAX_SIZE, PictureService
from my_service.previews.service import Previews
from my_service.rates.client import Rates
from my_service.rates.dependencies import get_rates
from my_service.shared import get_previews

from .signing import BODY, sign


def list_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*")}


async def test_calls_of_all_requests_share_a_bound(app: FastAPI, client: AsyncClient) -> None:
    counts: list[int] = []
    running = 0

    async def respond(request: Request) -> Response:
        nonlocal running
        running += 1
        counts.append(running)
        await asyncio.sleep(0.02)
        running -= 1
        return Response(200, json={"rate": 2})

    async with AsyncClient(transport=MockTransport(respond), base_url="http://rates") as provider:
        rates = Rates(provider, limit=2)
        app.dependency_overrides[get_rates] = lambda: rates
        queries = [{"currency": ["EUR", "USD", "CHF"]}, {"currency": ["GBP", "JPY", "SEK"]}]
        responses = await asyncio.gather(
            *(client.get("/v1/rates", params=query) for query in queries)
        )
    assert [response.status_code for response in responses] == [200, 200]
    assert len(counts) == 6
    assert max(counts) == 2


async def test_threads_are_bounded_and_block_nobody(app: FastAPI, client: AsyncClient) -> None:
    running = Semaphore(0)
    release = Event()

    def render(text: str) -> str:
        running.release()
        assert release.wait(10)
        return text.upper()

    previews = Previews(render, threads=2)
    app.dependency_overrides[get_previews] = lambda: previews
    requests = [
        asyncio.create_task(client.get("/v1/preview", params={"text": text})) for text in "abc"
    ]
    for _ in range(2):
        assert await to_thread.run_sync(running.acquire, True, 10)
    assert (await client.get("/health/live")).status_code == 200
    assert not running.acquire(timeout=0.1)
    release.set()
    responses = await asyncio.gather(*requests)
    assert [response.json() for response in responses] == ["A", "B", "C"]


async def test_a_task_runs_after_the_response(app: FastAPI, client: AsyncClient) -> None:
    comments: list[str] = []

    class Failing(Notifier):
        async def notify(self, comment: str) -> None:
            comments.append(comment)
            raise RuntimeError("a bug")

    app.dependency_overrides[get_notifier] = Failing
    response = await client.post("/v1/comments", json={"text": "Nice."})
    assert response.status_code == 202
    assert comments == ["Nice."]


@pytest.mark.parametrize(
    ("header", "language"),
    [("de-AT,de;q=0.9,en;q=0.8", "de"), ("fr, en;q=0.5", "en"), ("fr", "en"), ("", "en")],
)
async def test_a_dependency_has_parameters(client: AsyncClient, header: str, language: str) -> None:
    response = await client.get("/v1/language", headers={"Accept-Language": header})
    assert response.json() == language


async def test_a_dependency_runs_once_per_request_or_for_each_use(client: AsyncClient) -> None:
    codes = (await client.get("/v1/codes")).json()
    assert len({*codes["shared"]}) == 1
    assert len({*codes["new"]}) == 2


async def test_a_folder_is_there_until_its_file_has_been_sent(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    response = await client.get("/v1/archives/readme.zip")
    assert response.status_code == 200
    assert ZipFile(BytesIO(response.content)).namelist() == ["readme.txt"]
    assert not list_files(tmp_path)


PNG = b"\x89PNG\r\n\x1a\n" + os.urandom(100)


@pytest.fixture
def pictures(app: FastAPI, tmp_path: Path) -> Path:
    app.dependency_overrides[get_picture_service] = lambda: PictureService(tmp_path)
    return tmp_path


async def upload(client: AsyncClient, content: bytes) -> Response:
    files = {"file": ("../../evil.html", content, "text/html")}
    return await client.post("/v1/pictures", files=files)


@pytest.mark.parametrize("content", [PNG, PNG.ljust(MAX_SIZE)])
async def test_a_picture_is_kept_under_another_name(
    client: AsyncClient, pictures: Path, content: bytes
) -> None:
    response = await upload(client, content)
    assert response.status_code == 201
    assert list_files(pictures) == {f"{response.json()}.png": content}


@pytest.mark.parametrize(
    ("content", "status"), [(PNG.ljust(MAX_SIZE + 1), 413), (b"GIF89a", 422), (b"", 422)]
)
async def test_what_is_too_large_or_no_picture_is_refused(
    client: AsyncClient, pictures: Path, content: bytes, status: int
) -> None:
    assert (await upload(client, content)).status_code == status
    assert not list_files(pictures)


async def test_a_webhook_needs_no_token(sender: AsyncClient) -> None:
    headers = sign(BODY)
    response = await sender.post("/v1/signed", content=BODY, headers=headers)
    assert response.json() == headers["webhook-id"]


async def test_one_of_several_signatures_is_enough(sender: AsyncClient) -> None:
    headers = sign(BODY)
    headers["webhook-signature"] = f"v1,b2xk {headers['webhook-signature']}"
    response = await sender.post("/v1/signed", content=BODY, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("age", [-600, 600])
async def test_a_webhook_of_another_time_is_refused(sender: AsyncClient, age: int) -> None:
    response = await sender.post("/v1/signed", content=BODY, headers=sign(BODY, age=age))
    assert response.status_code == 403
    assert response.json()["detail"] == "The event is too old."


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
async def test_a_webhook_with_a_header_of_another_is_refused(
    sender: AsyncClient, name: str
) -> None:
    headers = sign(BODY) | {name: sign(BODY, age=60)[name]}
    response = await sender.post("/v1/signed", content=BODY, headers=headers)
    assert response.status_code == 403
    assert response.json()["detail"] == "The signature is wrong."


async def test_a_webhook_with_another_body_is_refused(sender: AsyncClient) -> None:
    response = await sender.post("/v1/signed", content=BODY.replace(b" ", b""), headers=sign(BODY))
    assert response.status_code == 403


async def test_a_signature_may_be_any_text(sender: AsyncClient) -> None:
    headers = {name: value.encode() for name, value in sign(BODY).items()}
    headers["webhook-signature"] = "é".encode()
    response = await sender.post("/v1/signed", content=BODY, headers=headers)
    assert response.status_code == 403


async def test_a_webhook_without_a_signature_is_refused(sender: AsyncClient) -> None:
    headers = sign(BODY)
    del headers["webhook-signature"]
    response = await sender.post("/v1/signed", content=BODY, headers=headers)
    assert response.status_code == 401
