"""Rendered services, and all that a client can send: a real uvicorn, over HTTP and raw sockets."""

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import repeat
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx2
import pytest
from breakable import COMMAND, Service, row
from harness import (
    TESTED,
    UV,
    eventually,
    group,
    make_environment,
    name,
    render,
    run,
)
from postgres import HOST

CONFIG = Path(__file__).with_name("schemathesis.toml")
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="session", params=group(TESTED))
def shape(request: pytest.FixtureRequest) -> dict[str, str]:
    return request.param


@pytest.fixture(scope="session")
def service(
    shape: dict[str, str], template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service in development, with whatever it needs; its client has logged in."""
    project = render(template, tmp_path_factory.mktemp(name(shape)) / "rendered", **shape)
    assert run(project, UV, "sync", "--quiet").returncode == 0
    runner = ("python", "-m", "dev")
    variables = {"AUTH_SECRET": token_hex(32), "ENVIRONMENT": "development"}
    variables["LIMITS_WRITES"] = "100000/second"
    service = Service(project, variables, "--drain=0", runner=runner)
    with ExitStack() as stack:
        stack.callback(service.check_log)
        stack.callback(service.stop)
        # A first start compiles every module, creates a database and migrates it.
        assert any(eventually(service.answers) for _ in range(3)), service.log
        if shape["jobs"] != "none":
            stack.enter_context(working(project, service))
        log_in(service, shape)
        yield service
    assert "[error" not in service.log


@contextmanager
def working(project: Path, service: Service) -> Iterator[None]:
    """Run a worker for the service, which sends its mail."""
    environment = make_environment(
        PATH=f"{project / '.venv/bin'}:{os.environ['PATH']}", **service.variables
    )
    command = [*service.runner, COMMAND, "work"]
    with subprocess.Popen(command, cwd=project, env=environment) as process:
        try:
            yield
        finally:
            process.terminate()


def log_in(service: Service, shape: dict[str, str]) -> None:
    if shape["auth"] == "password":
        service.log_in()
    elif shape["auth"] == "oidc":
        log_in_at_the_provider(service)
    if shape["organizations"] != "none":
        response = service.client.post("/v1/organizations", json={"name": "Acme"})
        service.items = f"{response.headers['Location']}/items"


def log_in_at_the_provider(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    [scheme] = document["components"]["securitySchemes"].values()
    provider = httpx2.get(scheme["openIdConnectUrl"]).json()
    form = {"grant_type": "client_credentials", "client_id": "ada"}
    token = httpx2.post(provider["token_endpoint"], data=form).json()["access_token"]
    service.secrets.add(token)
    service.client.headers["Authorization"] = f"Bearer {token}"


@row("Anything that the OpenAPI document allows or forbids")
def test_the_whole_document(service: Service, shape: dict[str, str], tmp_path: Path) -> None:
    command = ["schemathesis", "--config-file", str(CONFIG), "run", f"{service.url}/openapi.json"]
    command += ["--checks=all", "--seed=1", "--max-examples=25", "--no-shrink"]
    for token in {None, service.client.headers.get("Authorization")}:
        known = ["--header", f"Authorization: {token}"] if token else []
        done = subprocess.run(
            [Path(sys.executable).with_name(command[0]), *command[1:], *known],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"(\d+) generated, \1 passed", done.stdout), done.stdout
    log_in(service, shape)  # it may have ended its own session


def check_problem(response: httpx2.Response, status: int) -> None:
    """It is a problem document with this status."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["X-Request-ID"]


@row("JSON that cannot be read, or stored")
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep"),
        pytest.param(b"[" * 100_000, id="deep and open"),
        pytest.param(b'{"name": ' + b"9" * 5_000 + b"}", id="digits"),
        pytest.param(b'{"name": 18446744073709551617}', id="65 bits"),
        pytest.param(b'{"name": NaN}', id="NaN"),
        pytest.param(b'{"name": -Infinity}', id="Infinity"),
        pytest.param(b'{"name": "\xff"}', id="no UTF-8"),
        pytest.param(b'{"name": "a\x00"}', id="raw NUL"),
        pytest.param(b'{"name": "\\ud800"}', id="surrogate"),
        pytest.param(b'{"name": "' + b"x" * 201 + b'"}', id="long name"),
    ],
)
def test_bodies(service: Service, body: bytes) -> None:
    check_problem(service.client.post(service.items, content=body, headers=JSON), 422)


def test_of_a_duplicate_key_the_last_counts(service: Service) -> None:
    body = b'{"name": "a", "name": "b"}'
    response = service.client.post(service.items, content=body, headers=JSON)
    assert response.status_code == 201
    assert response.json()["name"] == "b"


def test_an_answer_does_not_grow_with_its_request(service: Service) -> None:
    body = {f"field{number}": 1 for number in range(50_000)}
    response = service.client.post(service.items, json=body)
    check_problem(response, 422)
    assert len(response.json()["errors"]) == 100


@row("Text with NUL")
def test_text_that_postgresql_refuses(service: Service, shape: dict[str, str]) -> None:
    kinds = {"asyncpg": (422, "application/problem+json"), "none": (201, "application/json")}
    response = service.client.post(service.items, json={"name": "a\0b"})
    kind = response.status_code, response.headers["Content-Type"]
    assert kind == kinds[shape["database"]]
    is_logged = "CharacterNotInRepertoireError" in service.log
    assert is_logged == (shape["database"] == "asyncpg")


@row("A body that is too large")
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_large_bodies(service: Service, is_chunked: bool) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"name": "'
        yield b"x" * 1_048_576

    content = body() if is_chunked else b"".join(body())
    check_problem(service.client.post(service.items, content=content, headers=JSON), 413)


@row("A body of another kind")
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": ""},
        {"Content-Type": "nonsense"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        FORM,
    ],
    ids=str,
)
def test_content_types(service: Service, headers: dict[str, str]) -> None:
    response = service.client.post(service.items, content=b'{"name": "a"}', headers=headers)
    check_problem(response, 415)


@row("JSON that cannot be read, or stored")
def test_a_body_that_is_compressed(service: Service) -> None:
    body = gzip.compress(b'{"name": "a"}')
    headers = JSON | {"Content-Encoding": "gzip"}
    check_problem(service.client.post(service.items, content=body, headers=headers), 422)


@row("An invalid form")
@pytest.mark.parametrize("path", ["/v1/auth/token", "/v1/auth/revoke"])
@pytest.mark.parametrize(
    "form",
    [
        b"",
        b'{"grant_type": "password"}',
        b"grant_type=password&username=%00&password=%00",
        b"grant_type=password&username=%ff&password=%ff",
        b"grant_type=password&grant_type=x&username=a&password=b",
        b"grant_type=refresh_token&refresh_token=%00",
        b"grant_type=password&password=b&username=" + b"x" * 500_000,
        b"&".join(b"field=%d" % number for number in range(2_000)),
    ],
    ids=lambda form: form[:20].decode(),
)
def test_forms(service: Service, shape: dict[str, str], path: str, form: bytes) -> None:
    wrong, file = (400, 422) if shape["auth"] == "password" else (404, 404)
    # Failed logins count per client address, and those of other tests do not count here.
    headers = FORM | {"X-Forwarded-For": "192.0.2.1"}
    check_problem(service.client.post(path, content=form, headers=headers), wrong)
    check_problem(service.client.post(path, json={}), wrong)
    files = {"grant_type": b"x", "token": b"x"}
    check_problem(service.client.post(path, files=files), file)


@row("An invalid path or query")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("?limit=99999999999999999999999", 422),
        ("?limit=" + "9" * 5_000, 422),
        ("?limit=NaN", 422),
        ("?after=%00", 422),
        ("?after=%ff", 422),
        ("?after=x&after=y", 422),
        ("?%ff=%00", 422),
        ("?x=" + "y" * 60_000, 422),
        ("/%00", 422),
        ("/%ff", 422),
        ("/" + "x" * 60_000, 422),
        ("/%2e%2e/%2e%2e", 404),
        ("/..%2f", 404),
    ],
    ids=lambda value: str(value)[:20],
)
def test_paths(service: Service, path: str, status: int) -> None:
    check_problem(service.client.get(service.items + path), status)


def test_of_a_duplicate_parameter_the_last_counts(service: Service) -> None:
    for item in ({"name": "a"}, {"name": "b"}):
        assert service.client.post(service.items, json=item).status_code == 201
    response = service.client.get(f"{service.items}?limit=1&limit=2")
    assert response.status_code == 200
    assert len(response.json()["items"]) == 2


@row("An invalid header")
@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Accept", b"\xff"),
        ("Cookie", b"\xff=\xfe"),
        ("Host", b"\xff"),
        ("X-Request-ID", b"\xff\xfe"),
        ("X-Forwarded-For", b"\xff, ,"),
        ("X-Long", b"x" * 60_000),
        ("Expect", b"nonsense"),
    ],
)
def test_headers(service: Service, header: str, value: bytes) -> None:
    response = service.client.get(service.items, headers={header.encode(): value})
    assert response.status_code == 200


@row("An unknown method")
@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "TRACE", "CONNECT"])
def test_methods(service: Service, method: str) -> None:
    response = service.client.request(method, service.items)
    check_problem(response, 405)
    assert response.headers["Allow"] == "GET, HEAD, POST"


@row("Invalid HTTP, a request without `Host`, or an invalid handshake")
@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"NONSENSE /v1/items HTTP/1.1\r\n\r\n",
        b"GET /v1/items\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/items HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/items HTTP/1.1\r\n\r\n",
        b"GET /v1/items HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /v1/items HTTP/9.9\r\nHost: x\r\n\r\n",
        b"POST /v1/items HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/items HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/items HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/items HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
def test_what_is_no_http(service: Service, data: bytes) -> None:
    check_refusal(exchange(service, [data]), 400)
    assert service.answers()


def exchange(service: Service, pieces: Iterable[bytes]) -> bytes:
    """Send until the connection is closed, and return what was sent back until then."""
    with socket.create_connection((HOST, service.port), timeout=20) as client:
        with suppress(ConnectionError):
            for piece in pieces:
                client.sendall(piece.replace(b"/v1/items", service.items.encode()))
        return read_to_end(client)


def read_to_end(client: socket.socket) -> bytes:
    answer = b""
    with suppress(ConnectionError):
        while data := client.recv(65_536):
            answer += data
    return answer


def check_refusal(answer: bytes, status: int) -> dict[str, Any]:
    """It is one problem document with this status, and the last one of its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *fields = head.decode().lower().split("\r\n")
    headers = dict(field.split(": ") for field in fields)
    assert line.startswith(f"http/1.1 {status} "), answer
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["status"] == status
    assert problem["request_id"] == headers["x-request-id"]
    return problem


GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/items HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
TRAILER = CHUNKED + b"1\r\n{\r\n0\r\n"
LINES = b"a:b\r\n" * 10_000
LETTERS = b"x" * 60_000


@row("Headers that are too large, or too many")
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((GET, b"X: " + 2 * LETTERS + b"\r\n\r\n"), id="value"),
        pytest.param((GET, 2 * LETTERS + b": x\r\n\r\n"), id="name"),
        pytest.param((b"GET /" + 2 * LETTERS + b" HTTP/1.1\r\nHost: x\r\n\r\n",), id="path"),
        pytest.param((GET, b"a: b\r\n" * 100, b"\r\n"), id="number"),
        pytest.param((GET, b"X: ", *repeat(LETTERS, 10)), id="open"),
        pytest.param((b"\r\n" * 60_000,), id="empty lines"),
        pytest.param((GET, UPGRADE, b"X: " + LETTERS + b"\r\n\r\n"), id="handshake"),
        pytest.param((CHUNKED, b"1;x=", *repeat(LETTERS, 10)), id="chunk extension"),
        pytest.param((TRAILER, b"x: ", *repeat(LETTERS, 10)), id="trailer"),
    ],
)
def test_headers_that_are_too_large(service: Service, pieces: tuple[bytes, ...]) -> None:
    check_refusal(exchange(service, pieces), 431)
    assert service.answers()


def test_headers_of_a_later_request(service: Service) -> None:
    with socket.create_connection((HOST, service.port), timeout=20) as client:
        client.sendall(GET + b"\r\n")
        while not client.recv(65_536).endswith(b"}"):
            pass
        client.sendall(GET + b"X: " + 2 * LETTERS)
        check_refusal(read_to_end(client), 431)


@row("Invalid HTTP, a request without `Host`, or an invalid handshake")
def test_a_handshake_that_is_no_http(service: Service) -> None:
    check_refusal(exchange(service, [GET, UPGRADE, b"Content-Length: 1\r\n\r\nx"]), 400)
    assert service.answers()


def test_trailers_are_no_headers(service: Service) -> None:
    body = b"1\r\nx\r\n0\r\n" + b"X-Request-ID: trailer\r\n" * 50 + b"\r\n"
    answer = exchange(service, [CHUNKED.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), body])
    assert re.match(rb"HTTP/1.1 (401|422) ", answer)
    assert b"trailer" not in answer


@row("Too many requests at once on a connection")
def test_pipelined_requests(service: Service) -> None:
    last = GET + b"Connection: close\r\n\r\n"
    answer = exchange(service, [(GET + b"\r\n") * 16 + last])
    assert answer.count(b"HTTP/1.1 200 ") == 17
    assert exchange(service, [(GET + b"\r\n") * 1_000 + last]) == b""
    assert service.answers()


@pytest.fixture(scope="module")
def limited(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with low limits, and whose own process can be measured."""
    folder = tmp_path_factory.mktemp("limited") / "rendered"
    project = render(template, folder, database="none", auth="none")
    assert run(project, UV, "sync", "--quiet").returncode == 0
    limits = {"HTTP_MAX_CONNECTIONS": "20"}
    limits |= {"HTTP_REQUEST_TIMEOUT": "2", "HTTP_KEEP_ALIVE_TIMEOUT": "2"}
    service = Service(project, {"AUTH_SECRET": token_hex(32)} | limits)
    with ExitStack() as stack:
        stack.callback(service.check_log)
        stack.callback(service.stop)
        assert eventually(service.answers), service.log
        yield service
    assert not service.events(level="error")


@pytest.mark.parametrize(
    ("beginning", "rest"),
    [
        pytest.param(GET, LINES, id="headers"),
        pytest.param(GET + b"X: ", LETTERS, id="value"),
        pytest.param(GET, LETTERS, id="name"),
        pytest.param(b"GET /", LETTERS, id="path"),
        pytest.param(b"", b"\r\n" * 10_000, id="empty lines"),
        pytest.param(b"", (GET + b"\r\n") * 1_000, id="pipelined"),
        pytest.param(b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000, id="many pipelined"),
        pytest.param(CHUNKED + b"1;x=", LETTERS, id="chunk extension"),
        pytest.param(TRAILER, LINES, id="trailers"),
        pytest.param(TRAILER + b"x: ", LETTERS, id="trailer"),
        pytest.param(POST + b"Content-Length: 30000000\r\n\r\n", LETTERS, id="body"),
        pytest.param(CHUNKED, b"ea60\r\n" + LETTERS + b"\r\n", id="chunks"),
        pytest.param(GET + b"Content-Length: 30000000\r\n\r\n", LETTERS, id="unread body"),
        pytest.param(GET + UPGRADE + b"\r\n", LETTERS, id="handshake"),
    ],
)
def test_memory_stays_flat(limited: Service, beginning: bytes, rest: bytes) -> None:
    assert eventually(limited.answers)
    before = limited.reset_peak_memory()
    exchange(limited, [beginning, *repeat(rest, 20_000_000 // len(rest))])
    assert limited.peak_memory - before < 5_000  # KiB, of 20 MB that a client has sent
    assert eventually(limited.answers)


@pytest.mark.parametrize("length", [0, 50_000], ids=["headers", "body"])
def test_memory_of_many_connections(limited: Service, length: int) -> None:
    before = limited.reset_peak_memory()
    headers = POST + (b"Content-Length: 100000\r\n\r\n" if length else b"")
    with ExitStack() as stack:
        for _ in range(400):  # 20 MB
            client = stack.enter_context(socket.create_connection((HOST, limited.port)))
            with suppress(ConnectionError):
                client.sendall(headers + b"X: " + 50_000 * b"x")
        assert eventually(lambda: limited.open_files < 50)
        assert limited.peak_memory - before < 5_000
        assert eventually(limited.answers)


@row("More connections than `HTTP_MAX_CONNECTIONS`")
def test_a_connection_makes_room(limited: Service) -> None:
    with ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection((HOST, limited.port), timeout=20))

        oldest = connect()
        assert eventually(limited.answers)
        for _ in range(30):
            connect()
        assert oldest.recv(1) == b""
        assert eventually(lambda: limited.open_files < 50)
        newest = connect()
        newest.sendall(GET + b"\r\n")
        assert newest.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert limited.events(event="too many connections", level="warning", limit=20)


def drip() -> Iterator[bytes]:
    """A header that never ends, and never pauses."""
    yield GET + b"X: "
    while True:
        time.sleep(0.05)
        yield b"x"


@row("A client sends slowly, or only half of a request")
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"GET /he"], id="path"),
        pytest.param([GET], id="headers"),
        pytest.param([POST + b"Content-Length: 9\r\n\r\n{"], id="body"),
        pytest.param([CHUNKED, b"1\r\n{\r\n"], id="chunks"),
        pytest.param(drip(), id="drip"),
    ],
)
def test_requests_that_do_not_arrive(limited: Service, pieces: Iterable[bytes]) -> None:
    problem = check_refusal(exchange(limited, pieces), 408)
    [line] = limited.events(request_id=problem["request_id"])
    assert (line["event"], line["level"], line["status"]) == ("request refused", "warning", 408)


def test_connections_without_a_request(limited: Service) -> None:
    assert exchange(limited, []) == b""
    assert exchange(limited, [GET + b"\r\n" + b"\r\n"]).count(b"HTTP/1.1") == 1


@row("An upgrade of the connection that the service does not know")
@pytest.mark.parametrize("protocol", [b"h2c", b"nonsense"])
def test_a_body_is_not_the_next_request(limited: Service, protocol: bytes) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n"
    body = GET + b"\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for headers, content in (length, body), (b"Transfer-Encoding: chunked\r\n\r\n", chunk):
        with socket.create_connection((HOST, limited.port), timeout=20) as client:
            client.sendall(POST + upgrade + headers)
            time.sleep(0.1)  # so that the body arrives for itself
            with suppress(ConnectionError):
                client.sendall(content)
            check_refusal(read_to_end(client), 400)
    headers = b"Connection: close, Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    assert exchange(limited, [GET + headers]).count(b"HTTP/1.1 200 ") == 1
