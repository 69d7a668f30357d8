"""A rendered service with a stream, a WebSocket and background tasks, as a team would add them."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex

import httpx2
import pytest
from breakable import Service, row
from harness import UV, eventually, make_environment, read_section, render, succeed
from postgres import HOST, free_port

FEATURE = """
import asyncio
from collections.abc import AsyncGenerator

from fastapi import BackgroundTasks, WebSocket
from fastapi.sse import EventSourceResponse

from .clock import router as clock
from .errors import Conflict
from .routing import Router

router = Router(prefix="/feature")
router.include_router(clock)


@router.get("/endless", response_class=EventSourceResponse)
async def stream_for_ever() -> AsyncGenerator[str]:
    yield "open"
    await asyncio.sleep(3600)


@router.websocket("/socket")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


running = 0


@router.post("/slow")
async def count_running(body: list[object]) -> int:
    global running
    running += 1
    count = running
    await asyncio.sleep(2)
    running -= 1
    return count


async def fail() -> None:
    raise Conflict("in the background")


@router.post("/tasks")
async def start(background: BackgroundTasks) -> None:
    background.add_task(fail)
"""


ADDITION = """

@router.get("/new")
async def show_that_it_is_new() -> None:
    pass
"""


def include(project: Path, feature: str) -> None:
    app = project / "src" / "my_service" / "app.py"
    text = app.read_text()
    for point, line in {
        "# Yours: imports\n": f"from . import {feature}\n",
        "    # Yours: routers\n": f"    app.include_router({feature}.router)\n",
    }.items():
        text = text.replace(point, point + line)
    app.write_text(text)


def add_clock(project: Path) -> None:
    """Add the example of a stream in the documentation."""
    section = read_section(project, "Streams, WebSockets, background tasks")
    [example] = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    clock = project / "src" / "my_service" / "clock"
    clock.mkdir()
    (clock / "__init__.py").write_text(example)


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "rendered"
    project = render(template, folder, database="none", auth="none")
    add_clock(project)
    (project / "src" / "my_service" / "feature.py").write_text(FEATURE)
    include(project, "feature")
    succeed(project, UV, "sync", "--quiet")
    return project


def test_the_example_of_a_stream_is_protected(template: Path, tmp_path: Path) -> None:
    project = render(template, tmp_path / "project", database="none", auth="oidc")
    add_clock(project)
    include(project, "clock")
    succeed(project, UV, "run", "pytest", "-q", "tests/auth/test_protection.py")


@pytest.fixture
def service(project: Path) -> Iterator[Service]:
    service = Service(project, {"AUTH_SECRET": token_hex(32)}, "--drain=2", "--grace=4")
    with ExitStack() as stack:
        stack.callback(service.stop)
        assert eventually(service.answers), service.log
        yield service


HANDSHAKE = (
    b"GET /feature/socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def open_socket(stack: ExitStack, service: Service) -> socket.socket:
    client = stack.enter_context(socket.create_connection((HOST, service.port), timeout=10))
    client.sendall(HANDSHAKE)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += client.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return client


def read_close_code(client: socket.socket) -> int:
    """Read the frame that closes a WebSocket (RFC 6455, section 5.5.1)."""
    opcode, length = client.recv(2)
    assert opcode == 0x88
    return int.from_bytes(client.recv(length)[:2])


@row("More connections than `HTTP_MAX_CONNECTIONS`")
def test_more_websockets_than_connections(project: Path) -> None:
    variables = {"AUTH_SECRET": token_hex(32), "HTTP_MAX_CONNECTIONS": "3"}
    service = Service(project, variables, "--drain=0")
    with ExitStack() as stack:
        stack.callback(service.stop)
        assert eventually(service.answers), service.log
        first, *_ = (open_socket(stack, service) for _ in range(3))
        assert service.answers("/health/live")
        response = service.client.post("/feature/tasks")
        assert response.status_code == 503
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers["Retry-After"] == "1"
        request_id = response.json()["request_id"]
        assert service.events(request_id=request_id, event="request refused", level="warning")
        first.close()
        assert eventually(lambda: service.client.post("/feature/tasks").status_code == 200)


def test_pings_of_a_client_that_does_not_read(service: Service) -> None:
    pings = (b"\x89\xfd" + bytes(4) + bytes(125)) * 1_000
    with ExitStack() as stack:
        client = open_socket(stack, service)
        before = service.reset_peak_memory()
        for _ in range(300):  # 39 MB
            client.sendall(pings)
        assert service.peak_memory - before < 5_000  # KiB


LARGE = json.dumps([{}] * 15_000).encode()


def post_json(service: Service, body: bytes) -> httpx2.Response:
    headers = {"Content-Type": "application/json"}
    return service.client.post("/feature/slow", content=body, headers=headers)


@row("Many large bodies of JSON at once")
def test_large_bodies_of_json_wait_for_their_turn(service: Service) -> None:
    with ThreadPoolExecutor(10) as threads:
        large = [threads.submit(post_json, service, LARGE) for _ in range(6)]
        time.sleep(0.5)
        small = [threads.submit(post_json, service, b"[{}]") for _ in range(2)]
        assert sorted(future.result().json() for future in small) == [5, 6]
        assert all(future.result().json() <= 6 for future in large)
        assert not service.events(level="error")


@pytest.mark.parametrize("value", [b"{},", b'{"":{}},'], ids=["objects", "nested objects"])
def test_memory_of_large_bodies_of_json(service: Service, value: bytes) -> None:
    body = b"[" + value * (1_000_000 // len(value)) + b"0]"
    before = service.reset_peak_memory()
    with ThreadPoolExecutor(16) as threads:
        responses = [threads.submit(post_json, service, body) for _ in range(16)]
        assert service.answers("/health/live")
        assert all(future.result().json() <= 4 for future in responses)
    # KiB: 16 bodies, and the objects of four. Those of all would take more than 400 MB.
    assert service.peak_memory - before < 200_000


def test_a_client_leaves_while_its_large_body_waits(service: Service) -> None:
    head = b"POST /feature/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with ThreadPoolExecutor(4) as threads:
        large = [threads.submit(post_json, service, LARGE) for _ in range(4)]
        time.sleep(0.5)
        with socket.create_connection((HOST, service.port), timeout=10) as client:
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE)
            time.sleep(0.2)
        assert eventually(lambda: bool(service.events(cause="ClientDisconnect()")))
        assert not service.events(event="request", status=200, route="/feature/slow")
        assert all(future.result().status_code == 200 for future in large)
    assert post_json(service, LARGE).json() == 1
    service.check_log()


def test_a_handshake_behind_a_stream(service: Service) -> None:
    with socket.create_connection((HOST, service.port), timeout=10) as client:
        client.sendall(b"GET /feature/endless HTTP/1.1\r\nHost: x\r\n\r\n" + HANDSHAKE)
        answer = b""
        while data := client.recv(65_536):
            answer += data
    assert b"101" not in answer
    assert service.events(event="request refused", status=400)


def read_events(response: httpx2.Response) -> Iterator[str]:
    return (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))


@row("A stream or a WebSocket is open when the process ends")
def test_a_process_ends_with_a_stream_and_a_websocket(service: Service) -> None:
    with ExitStack() as stack:
        client = open_socket(stack, service)
        events = read_events(stack.enter_context(service.client.stream("GET", "/feature/clock")))
        assert next(events)
        service.process.terminate()
        list(events)  # until it ends
        # The stream has ended, the process goes on.
        assert service.answers("/health/live")
        assert service.answers(status=503)
        assert read_close_code(client) == 1001
        assert service.process.wait(10) == 0
    assert not service.events(level="warning")
    [line] = service.events(event="websocket")
    assert (line["route"], line["code"]) == ("/feature/socket", 1001)
    service.check_log()


def test_a_stream_that_does_not_end_is_cut(service: Service) -> None:
    with service.client.stream("GET", "/feature/endless") as response:
        events = read_events(response)
        assert next(events) == "open"
        service.process.terminate()
        with pytest.raises(httpx2.RemoteProtocolError):
            next(events)
    assert service.process.wait(10) == 1
    assert service.events(event="requests cancelled")
    service.check_log()


@row("A background task fails")
def test_a_background_task_that_fails(service: Service) -> None:
    response = service.client.post("/feature/tasks")
    assert response.status_code == 200
    request_id = response.headers["X-Request-ID"]
    assert eventually(lambda: len(service.events(request_id=request_id)) == 2)
    request, failure = service.events(request_id=request_id)
    assert (request["event"], request["status"]) == ("request", 200)
    assert (failure["event"], failure["level"]) == ("background task failed", "error")
    assert failure["function"] == "fail"
    assert "Conflict: in the background" in failure["exception"]
    # Its connection goes on.
    assert service.client.get("/health/live").status_code == 200
    assert service.log.count("Traceback") == failure["exception"].count("Traceback")


@row("A message that is too large")
def test_a_message_that_is_too_large(service: Service) -> None:
    with ExitStack() as stack:
        client = open_socket(stack, service)
        size = 65_537
        client.sendall(b"\x81\xff" + size.to_bytes(8) + bytes(4) + bytes(size))
        assert read_close_code(client) == 1009
    assert eventually(lambda: bool(service.events(event="websocket", code=1009)))
    service.check_log()


def test_a_reload_and_the_end_of_development_wait_for_no_stream(project: Path) -> None:
    port = free_port()
    with (
        subprocess.Popen(
            [UV, "run", "poe", "dev", "--port", str(port)],
            cwd=project,
            env=make_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process,
        httpx2.Client(base_url=f"http://{HOST}:{port}", timeout=30) as client,
    ):
        try:
            assert eventually(lambda: responds(client))
            with client.stream("GET", "/feature/clock") as response:
                events = read_events(response)
                assert next(events)
                (project / "src" / "my_service" / "feature.py").write_text(FEATURE + ADDITION)
                list(events)  # until it ends
            assert eventually(lambda: responds(client, "/feature/new"))
            with client.stream("GET", "/feature/clock") as response:
                events = read_events(response)
                assert next(events)
                os.killpg(process.pid, signal.SIGINT)
                list(events)  # until it ends
            output, _ = process.communicate(timeout=10)
        finally:
            process.kill()
    assert "requests cancelled" not in output
    assert "shutdown timed out" not in output
    assert "Traceback" not in output


def responds(client: httpx2.Client, path: str = "/health/live") -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx2.TransportError:
        return False
