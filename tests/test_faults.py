"""The rendered service while what it needs breaks: a real PostgreSQL, uvicorn, HTTP."""

import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx2
import psycopg
import pytest
import trustme
from anyio.from_thread import start_blocking_portal
from breakable import COMMAND, Front, Load, Postgres, Service, opening_postgres, row
from harness import UV, eventually, make_environment, render, run
from postgres import HOST, free_port
from psycopg import sql

POOL = 4
POOL_TIMEOUT = 1
STATEMENT_TIMEOUT = 2

Start = Callable[..., Service]


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    with opening_postgres() as postgres:
        yield postgres


@pytest.fixture
def postgres(server: Postgres) -> Iterator[Postgres]:
    yield server
    server.mend()


@pytest.fixture(scope="session")
def project(template: Path, server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = render(template, tmp_path_factory.mktemp("project") / "rendered")
    assert run(project, UV, "sync", "--quiet").returncode == 0
    return project


def migrate(project: Path, url: str) -> str:
    """Return what it logs."""
    variables = {"DATABASE_URL": url, "AUTH_SECRET": token_hex(32)}
    done = run(project, UV, "run", "-q", COMMAND, "migrate", **variables)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def migrated(project: Path, server: Postgres) -> None:
    migrate(project, server.url)


@pytest.fixture
def start(project: Path, postgres: Postgres) -> Iterator[Start]:
    """Start services, which must have told their log no secret."""
    with ExitStack() as stack:

        def start(*arguments: str, is_ready: bool = True, **variables: str) -> Service:
            defaults = {
                "DATABASE_URL": postgres.url,
                "DATABASE_POOL_SIZE": str(POOL),
                "DATABASE_POOL_TIMEOUT": str(POOL_TIMEOUT),
                "DATABASE_STATEMENT_TIMEOUT": str(STATEMENT_TIMEOUT),
                "AUTH_SECRET": token_hex(32),
            }
            service = Service(project, defaults | variables, *arguments)
            stack.callback(service.check_log)
            stack.callback(service.stop)
            assert eventually(lambda: service.answers("/health/live")), service.log
            assert service.answers("/health/ready", 200 if is_ready else 503), service.log
            return service

        yield start


@pytest.fixture
def service(start: Start, migrated: None) -> Service:
    service = start()
    service.log_in()
    return service


def post(service: Service, name: str = "") -> Callable[[], httpx2.Response]:
    return lambda: service.client.post("/v1/items", json={"name": name or token_hex(8)})


def get(service: Service) -> Callable[[], httpx2.Response]:
    return lambda: service.client.get("/v1/items?limit=1")


def wait_for_lines(service: Service, response: httpx2.Response) -> list[dict[str, Any]]:
    """Return what the log has of a request: its own line comes last, after the response."""
    request_id = response.headers["X-Request-ID"]
    assert eventually(lambda: bool(service.events(request_id=request_id, event="request")))
    return service.events(request_id=request_id)


def explain(service: Service, response: httpx2.Response) -> str:
    """Check that it says 503, and return the cause that the log names in its one line for it."""
    assert response.status_code == 503, response.text
    assert response.headers["Retry-After"] == "1"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["X-Request-ID"]
    reason, access = wait_for_lines(service, response)
    assert (reason["event"], reason["level"]) == ("request failed", "error")
    assert access["status"] == 503
    return reason["cause"]


def check_stored(postgres: Postgres, load: Load) -> None:
    """What was accepted is stored once, what was not at most once."""
    sent = {name for _, name, _ in load.requests}
    stored = [name for name in postgres.list_items() if name in sent]
    assert len(stored) == len(set(stored))
    accepted = {name for _, name, answer in load.requests if answer and answer.status_code == 201}
    assert accepted
    assert accepted <= set(stored)


def check_pools(service: Service, postgres: Postgres) -> None:
    """All connections of both pools are there for requests, and there are no others."""
    with ThreadPoolExecutor(2 * POOL) as threads, postgres.locked():
        # One after the other: a read needs a connection, too, to find its caller.
        answers = [threads.submit(post(service)) for _ in range(POOL)]
        assert eventually(lambda: postgres.count_waiting() == POOL)
        answers += [threads.submit(get(service)) for _ in range(POOL)]
        assert eventually(lambda: postgres.count_waiting() == 2 * POOL)
        assert postgres.count_sessions() == 2 * POOL
    assert [answer.result().status_code for answer in answers] == [201] * POOL + [200] * POOL


@row("The database is unreachable when the process starts")
def test_a_database_that_is_away_at_the_start(
    start: Start, migrated: None, postgres: Postgres
) -> None:
    postgres.halt()
    service = start(is_ready=False)
    [line] = service.events(event="the database is unreachable")
    assert line["level"] == "warning"
    assert "Connect call failed" in line["cause"]
    assert "Connection refused" in explain(service, service.client.get("/health/ready"))
    account = {"email": "ada@example.com", "password": "correct horse battery"}
    sign_up = service.client.post("/v1/auth/users", json=account)
    assert "Connection refused" in explain(service, sign_up)
    postgres.begin()
    assert service.client.get("/health/ready").status_code == 200
    service.log_in()
    assert post(service)().status_code == 201


@row("The database is killed, or restarted")
@pytest.mark.parametrize("end", [Postgres.kill, Postgres.halt])
def test_a_database_that_ends_and_comes_back(
    service: Service, postgres: Postgres, end: Callable[[Postgres], None]
) -> None:
    with Load(service) as load:
        time.sleep(0.5)
        end(postgres)
        time.sleep(0.5)
        assert service.answers("/health/live")
        assert service.answers("/health/ready", 503)
        postgres.begin()
        returned = time.monotonic()
        time.sleep(2)
    assert load.statuses() == {200, 201, 503}
    assert load.statuses(since=returned + 1) == {200, 201}
    refused = [response for response in load.responses if response.status_code == 503]
    assert refused
    for response in refused:
        explain(service, response)
    check_stored(postgres, load)
    check_pools(service, postgres)
    assert not service.events(level="critical")


@row("The database or the network is frozen")
def test_a_database_that_is_frozen(service: Service, postgres: Postgres) -> None:
    assert get(service)().status_code == 200
    postgres.send(signal.SIGSTOP)
    with Load(service) as load:
        for _ in range(20):
            assert service.client.get("/health/live").elapsed.total_seconds() < 1
            time.sleep(0.1)
        ready = service.client.get("/health/ready")
        causes = {explain(service, ready)}
        time.sleep(6)
    assert len(load.responses) > 20
    for response in [ready, *load.responses]:
        causes.add(explain(service, response))
        # Waiting for a connection and making one; or a statement, and its connection's end.
        assert response.elapsed.total_seconds() < max(POOL_TIMEOUT + 5, STATEMENT_TIMEOUT + 3) + 1
    # A time-out of the driver, and that of the pool.
    driver, pool = sorted(causes, key=len)
    assert driver == "TimeoutError()"
    assert "QueuePool limit" in pool
    postgres.send(signal.SIGCONT)
    assert eventually(lambda: get(service)().status_code == 200)
    check_pools(service, postgres)


@row("The process ends while the database is frozen")
def test_a_process_that_ends_while_the_database_is_frozen(
    service: Service, postgres: Postgres
) -> None:
    check_pools(service, postgres)
    postgres.send(signal.SIGSTOP)
    started = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - started < 10
    assert service.events(event="Application shutdown complete.")


@row("The database is read-only")
def test_a_database_that_is_read_only(service: Service, postgres: Postgres) -> None:
    assert post(service, "before")().status_code == 201
    postgres.configure("default_transaction_read_only = on")
    assert eventually(lambda: post(service, "during")().status_code == 503)
    assert "read-only transaction" in explain(service, post(service, "during")())
    assert get(service)().json()["items"]
    postgres.configure()
    assert eventually(lambda: post(service, "after")().status_code == 201)
    check_pools(service, postgres)


@row("The database has no connection left")
def test_a_database_without_a_connection_left(
    start: Start, migrated: None, postgres: Postgres
) -> None:
    postgres.halt()
    postgres.begin("--max_connections=6", "--superuser_reserved_connections=0")
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(postgres.connect())
        service = start(is_ready=False)
        cause = explain(service, service.client.get("/health/ready"))
        assert "too many clients already" in cause
    assert eventually(service.answers)
    service.log_in()
    assert post(service)().status_code == 201


@row("The password of the database is wrong")
def test_a_wrong_password(start: Start, service: Service, postgres: Postgres) -> None:
    wrong = token_hex(16)
    url = postgres.url.replace(postgres.password, wrong)
    other = start(is_ready=False, DATABASE_URL=url, AUTH_SECRET=service.variables["AUTH_SECRET"])
    other.client.headers = service.client.headers
    account = {"email": "ada@example.com", "password": "correct horse battery"}
    for response in (
        other.client.get("/health/ready"),
        get(other)(),
        post(other)(),
        other.client.post("/v1/auth/users", json=account),
    ):
        assert "password authentication failed" in explain(other, response)
    assert other.client.get("/health/live").status_code == 200


AUTHORITY = trustme.CA()


@pytest.fixture
def front(postgres: Postgres) -> Iterator[Front]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Front.open(postgres)) as front,
    ):
        yield front


@pytest.fixture
def verified_url(postgres: Postgres, front: Front, tmp_path: Path) -> str:
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    url = postgres.url.replace(str(postgres.port), str(front.port))
    return f"{url}?sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}"


@row("The certificate of the database cannot be verified")
@pytest.mark.parametrize(
    ("certificate", "cause"),
    [
        (trustme.CA().issue_cert(HOST), "certificate verify failed"),
        (AUTHORITY.issue_cert("db.example.com"), "IP address mismatch"),
        (None, "rejected SSL upgrade"),
    ],
    ids=["of another authority", "for another host", "none"],
)
def test_a_certificate_that_cannot_be_verified(
    project: Path,
    start: Start,
    migrated: None,
    front: Front,
    verified_url: str,
    certificate: trustme.LeafCert | None,
    cause: str,
) -> None:
    if certificate:
        front.present(certificate)
    variables = {"DATABASE_URL": verified_url, "AUTH_SECRET": token_hex(32)}
    refused = run(project, UV, "run", "-q", COMMAND, "migrate", **variables)
    assert refused.returncode == 1
    assert cause in refused.stdout
    assert "The server needs TLS (ssl = on), and a certificate for its host" in refused.stdout
    assert "Traceback" not in refused.stdout
    service = start(is_ready=False, **variables)
    [line] = service.events(event="the database is unreachable")
    assert cause in line["cause"]
    assert cause in explain(service, service.client.get("/health/ready"))
    assert service.client.get("/health/live").status_code == 200
    assert not front.unencrypted
    front.present(AUTHORITY.issue_cert(HOST))
    service.log_in()
    assert post(service)().status_code == 201
    migrate(project, verified_url)


def test_a_server_that_asks_for_a_certificate(
    migrated: None, start: Start, front: Front, verified_url: str, tmp_path: Path
) -> None:
    front.present(AUTHORITY.issue_cert(HOST), AUTHORITY)
    start(is_ready=False, DATABASE_URL=verified_url)
    certificate = tmp_path / "client.pem"
    client = AUTHORITY.issue_cert(common_name="app")
    client.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    start(DATABASE_URL=f"{verified_url}&sslcert={certificate}")


@row("The reader is unreachable, the writer is not")
def test_a_reader_that_is_away(start: Start, migrated: None, postgres: Postgres) -> None:
    away = postgres.url.replace(str(postgres.port), str(free_port()))
    service = start(is_ready=False, DATABASE_READER_URL=away)
    service.log_in()
    assert post(service)().status_code == 201
    for response in (service.client.get("/health/ready"), get(service)()):
        assert "Connection refused" in explain(service, response)


@row("The writer is unreachable, the reader is not")
def test_a_writer_that_is_away(start: Start, service: Service, postgres: Postgres) -> None:
    away = postgres.url.replace(str(postgres.port), str(free_port()))
    other = start(
        is_ready=False,
        DATABASE_URL=away,
        DATABASE_READER_URL=postgres.url,
        AUTH_SECRET=service.variables["AUTH_SECRET"],
    )
    other.client.headers = service.client.headers
    assert get(other)().status_code == 200
    users = other.client.get("/v1/auth/users")
    for response in (other.client.get("/health/ready"), post(other)(), users):
        assert "Connection refused" in explain(other, response)


@row("More requests at once than connections")
def test_more_requests_than_connections(service: Service, postgres: Postgres) -> None:
    # A short wait: all of them are stored.
    names = [token_hex(8) for _ in range(8 * POOL)]
    with ThreadPoolExecutor(8 * POOL) as threads, postgres.locked():
        answers = [threads.submit(post(service, name)) for name in names]
        time.sleep(POOL_TIMEOUT / 2)
    assert {answer.result().status_code for answer in answers} == {201}
    # A long one: those that have no connection in time are refused, and not stored.
    late = [token_hex(8) for _ in range(8 * POOL)]
    with ThreadPoolExecutor(8 * POOL) as threads, postgres.locked():
        answers = [threads.submit(post(service, name)) for name in late]
        assert eventually(lambda: sum(answer.done() for answer in answers) == 7 * POOL)
    responses = [answer.result() for answer in answers]
    refused = [response for response in responses if response.status_code == 503]
    assert len(refused) == 7 * POOL
    for response in refused:
        assert "QueuePool limit" in explain(service, response)
    accepted = [
        name for name, response in zip(late, responses, strict=True) if response.status_code == 201
    ]
    assert len(accepted) == POOL
    stored = [name for name in postgres.list_items() if name in {*names, *late}]
    assert sorted(stored) == sorted([*names, *accepted])
    check_pools(service, postgres)


def test_memory_stays_flat_under_too_many_requests(
    start: Start, migrated: None, postgres: Postgres
) -> None:
    service = start(DATABASE_POOL_TIMEOUT="0.1")
    service.log_in()

    def measure(requests: int) -> int:
        with ThreadPoolExecutor(40) as threads:
            answers = [threads.submit(post(service)) for _ in range(requests)]
        assert {answer.result().status_code for answer in answers} == {503}
        return service.peak_memory

    # No write passes the lock: each waits for it or for a connection until a time-out.
    with postgres.locked():
        measure(300)
        before = measure(300)
        assert measure(1200) - before < 2 * 1200  # KiB, so 2 per request
    assert post(service)().status_code == 201
    check_pools(service, postgres)


@row("A statement takes too long")
def test_a_statement_that_takes_too_long(service: Service, postgres: Postgres) -> None:
    with postgres.locked():
        for call in (post(service), get(service)):
            response = call()
            assert "statement timeout" in explain(service, response)
            assert response.elapsed.total_seconds() < STATEMENT_TIMEOUT + 1
    check_pools(service, postgres)


@row("A client sends slowly, or only half of a request")
def test_slow_clients_stop_nobody(service: Service, postgres: Postgres) -> None:
    for _ in range(100):  # so that a page is more than what waits in a socket
        item = {"name": token_hex(8), "description": "x" * 2000}
        assert service.client.post("/v1/items", json=item).status_code == 201
    files = service.open_files
    token = service.client.headers["Authorization"]
    halves = (
        "POST /v1/items HTTP/1.1\r\nHost: x\r\nContent-",
        f"POST /v1/items HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
        'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"name": ',
        f"GET /v1/items?limit=100 HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n",
    )
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            for _ in range(210)
        ]
        for client, half in zip(clients, halves * 70, strict=True):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(half.encode())
        assert eventually(lambda: service.open_files >= files + 210)
        # None of them holds a connection of the pools, also before its answer is read.
        assert eventually(lambda: len(service.events(method="GET", route="/v1/items")) >= 70)
        check_pools(service, postgres)
        with Load(service) as load:
            time.sleep(0.5)
        assert load.statuses() == {200, 201}
    assert eventually(lambda: service.open_files < files + 70)


@row("A client disconnects during a write")
def test_a_client_that_goes_away(service: Service, postgres: Postgres) -> None:
    name = token_hex(8)
    body = f'{{"name": "{name}"}}'
    token = service.client.headers["Authorization"]
    with postgres.locked():
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(
                f"POST /v1/items HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                f"{body}".encode()
            )
            assert eventually(lambda: postgres.count_waiting() == 1)
        time.sleep(0.2)
    assert eventually(lambda: name in postgres.list_items())
    check_pools(service, postgres)


@row("SIGTERM")
def test_the_end_under_load(start: Start, service: Service, postgres: Postgres) -> None:
    with Load(service) as load:
        time.sleep(0.5)
        service.process.terminate()
        assert eventually(lambda: service.answers("/health/ready", 503))
        # Not ready is not yet gone.
        assert post(service)().status_code == 201
        assert eventually(lambda: "Connection" in service.client.get("/health/live").headers)
        assert service.process.wait(30) == 0
    assert load.statuses() == {200, 201, 0}
    # Nothing was begun and left without an answer.
    begun = {name for _, name, answer in load.requests if answer is None}
    assert not begun & set(postgres.list_items())
    check_stored(postgres, load)
    assert postgres.count_sessions() == 0
    [line] = service.events(event="going away")
    assert line["level"] == "info"
    assert not service.events(level="error")
    assert not service.events(level="warning")


def test_requests_in_flight_finish(service: Service, postgres: Postgres) -> None:
    with ThreadPoolExecutor(1) as threads, postgres.locked():
        answer = threads.submit(post(service))
        assert eventually(lambda: postgres.count_waiting() == 1)
        service.process.send_signal(signal.SIGINT)
        assert eventually(lambda: not service.listens)
    assert answer.result().status_code == 201
    assert service.process.wait(30) == 0


def catches(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether it has a handler: without one, the first process of a container ignores a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = int(re.findall(r"^SigCgt:\s+(\w+)", status, re.MULTILINE)[0], 16)
    return bool(mask >> (number - 1) & 1)


@row("SIGTERM or SIGINT while a command runs, or while the service starts")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["migrate", "serve", "delete-expired"])
@pytest.mark.parametrize("fault", ["none", "frozen"])
def test_a_command_that_has_to_end(
    project: Path, migrated: None, postgres: Postgres, number: int, command: str, fault: str
) -> None:
    if fault == "frozen":
        postgres.send(signal.SIGSTOP)
    variables = {"DATABASE_URL": postgres.url, "AUTH_SECRET": token_hex(32)}
    with subprocess.Popen(
        [project / ".venv" / "bin" / COMMAND, command],
        cwd=project,
        env=make_environment(PORT=str(free_port()), **variables),
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr
        try:
            # From the first imports on.
            assert eventually(lambda: catches(process, signal.SIGTERM))
            time.sleep(1 if fault == "frozen" else 0)
            process.send_signal(number)
            assert process.wait(30) == 128 + number
            assert b"Traceback" not in process.stderr.read()
        finally:
            process.kill()


@row("A setting, or a variable that a library reads, cannot be used")
@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"DATABASE_STATEMENT_TIMEOUT": "0.0001"}, "DATABASE_STATEMENT_TIMEOUT: Input should be"),
        ({"HTTP_ALLOWED_HOSTS": "example.com:443"}, "HTTP_ALLOWED_HOSTS: should be example.com"),
        ({"DATABASE_READER_URL": "postgresql://a@b..c/d"}, "is DATABASE_READER_URL right?"),
        ({"FORWARDED_ALLOW_IPS": "10.0.0.1/8"}, "FORWARDED_ALLOW_IPS should be like"),
        ({"PGSSLMODE": "require"}, "PGSSLMODE does not count"),
        (
            {
                "DATABASE_URL": "postgresql://a@b/c?sslmode=verify-full",
                "SSL_CERT_FILE": "/missing",
            },
            "needs the certificates in SSL_CERT_FILE, /missing: [Errno 2]",
        ),
    ],
)
def test_a_value_that_cannot_be_used(
    project: Path, migrated: None, postgres: Postgres, variables: dict[str, str], sentence: str
) -> None:
    defaults = {
        "DATABASE_URL": postgres.url,
        "DATABASE_TLS": "optional",
        "AUTH_SECRET": token_hex(32),
        "PORT": str(free_port()),
    }
    command = str(project / ".venv" / "bin" / COMMAND)
    done = run(project, command, "serve", **defaults | variables)
    assert done.returncode == 1
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout


@row("A second SIGTERM, or the end of the grace period")
@pytest.mark.parametrize("signals", [1, 2])
def test_what_does_not_finish_is_rolled_back(
    start: Start, migrated: None, postgres: Postgres, signals: int
) -> None:
    grace = {1: "1", 2: "30"}[signals]
    service = start("--drain=0", f"--grace={grace}", DATABASE_STATEMENT_TIMEOUT="60")
    service.log_in()
    name = token_hex(8)
    with postgres.locked(), ThreadPoolExecutor(1) as threads:
        answer = threads.submit(post(service, name))
        assert eventually(lambda: postgres.count_waiting() == 1)
        for _ in range(signals):
            service.process.terminate()
            time.sleep(0.3)
        response = answer.result()
        assert explain(service, response) == "CancelledError('cut short')"
        assert service.process.wait(10) == 1
        assert postgres.count_sessions() == 0
    assert name not in postgres.list_items()
    [line] = service.events(event="requests cancelled")
    assert (line["level"], line["requests"]) == ("warning", 1)


@pytest.fixture
def new_url(postgres: Postgres) -> Iterator[str]:
    """An empty database."""
    name = f"new_{token_hex(4)}"
    identifier = sql.Identifier(name)
    with postgres.connect(autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
    yield postgres.url.replace("/app_test", f"/{name}")
    with postgres.connect(autocommit=True) as connection:
        # Not `WITH (FORCE)`, which fails while autovacuum works on the database.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = %s AND backend_type = 'client backend'",
            [name],
        )
        connection.execute(sql.SQL("DROP DATABASE {}").format(identifier))


@row("Two processes migrate at once")
def test_two_migrations_at_once(project: Path, new_url: str) -> None:
    with (
        ThreadPoolExecutor(2) as threads,
        psycopg.connect(new_url, autocommit=True) as connection,
    ):
        # Both are held up where the one that comes second waits.
        connection.execute("SELECT pg_advisory_lock(0x6D696772617465)")
        logs = [threads.submit(migrate, project, new_url) for _ in range(2)]
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        assert eventually(lambda: connection.execute(sessions).fetchall() == [(3,)])
        time.sleep(0.5)
        assert not any(log.done() for log in logs)
        connection.execute("SELECT pg_advisory_unlock(0x6D696772617465)")
    assert sorted("Running upgrade" in log.result() for log in logs) == [False, True]


@row("The schema is behind")
def test_a_schema_that_is_behind(
    project: Path, start: Start, postgres: Postgres, new_url: str
) -> None:
    variables = {"DATABASE_URL": new_url, "AUTH_SECRET": token_hex(32)}
    refused = run(project, UV, "run", "-q", COMMAND, "serve", **variables)
    assert refused.returncode == 1
    assert "The schema is behind. Run `my-service migrate` first." in refused.stdout
    assert "Traceback" not in refused.stdout
    start(DATABASE_URL=new_url, DATABASE_MIGRATIONS="optional")
    # Not seen at the start, since the database was away.
    postgres.halt()
    service = start(is_ready=False, DATABASE_URL=new_url)
    postgres.begin()
    assert "The schema is behind" in explain(service, service.client.get("/health/ready"))
    migrate(project, new_url)
    assert service.answers()
    service.log_in()


@pytest.fixture
def broken(project: Path, start: Start, new_url: str) -> Service:
    """A service whose database a test may change at will."""
    migrate(project, new_url)
    service = start(DATABASE_URL=new_url, HTTP_MAX_BODY_SIZE="4000000")
    service.log_in()
    return service


def change_schema(service: Service, *statements: str) -> None:
    with psycopg.connect(service.variables["DATABASE_URL"]) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def find_bug(service: Service, response: httpx2.Response) -> str:
    """Check that it is 500, and return the traceback."""
    service.has_bug = True
    assert response.status_code == 500, response.text
    assert response.json()["detail"] == "Internal Server Error"
    error, access = wait_for_lines(service, response)
    assert (error["event"], error["level"]) == ("unexpected error", "error")
    assert access["status"] == 500
    return error["exception"]


def post_secret(service: Service) -> httpx2.Response:
    name, description = token_hex(8), f"two\nlines {token_hex(8)}"
    service.secrets |= {name, *description.split()[1:]}
    return service.client.post("/v1/items", json={"name": name, "description": description})


@row("A statement of the service is wrong, such as a division by zero")
def test_a_statement_that_is_wrong(broken: Service) -> None:
    change_schema(
        broken,
        "CREATE FUNCTION divide() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM 1 / 0; RETURN NEW; END'",
        "CREATE TRIGGER divide BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION divide()",
    )
    bug = find_bug(broken, post_secret(broken))
    assert "DBAPIError: DivisionByZeroError('[hidden]') in INSERT INTO items" in bug
    # PostgreSQL tells the row.
    change_schema(broken, "ALTER TABLE items ADD CHECK (false), DISABLE TRIGGER divide")
    bug = find_bug(broken, post_secret(broken))
    assert "violates check constraint" in bug
    assert "DETAIL" not in bug


@row("A value that its column cannot store")
def test_a_value_that_is_too_long(broken: Service) -> None:
    change_schema(broken, "ALTER TABLE items ALTER name TYPE varchar(3)")
    response = post_secret(broken)
    assert response.status_code == 422
    reason, access = wait_for_lines(broken, response)
    assert (reason["event"], reason["level"]) == ("client error", "info")
    assert reason["cause"] == "StringDataRightTruncationError('[hidden]')"
    assert access["status"] == 422


@row("A response does not fit its model")
def test_a_response_that_does_not_fit(broken: Service) -> None:
    assert post_secret(broken).status_code == 201
    change_schema(broken, "ALTER TABLE items ALTER name DROP NOT NULL")
    change_schema(broken, "UPDATE items SET name = NULL")
    bug = find_bug(broken, get(broken)())
    assert bug.endswith("ResponseValidationError: response.items.0.name: string_type")


@row("There is no room for a file of a form")
def test_a_file_without_room(broken: Service) -> None:
    form = {"token": b"x" * 2_000_000}
    assert broken.client.post("/v1/auth/revoke", files=form).status_code == 422
    # Beyond it are only the files that requests write.
    limit = 1_000_000
    resource.prlimit(broken.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    bug = find_bug(broken, broken.client.post("/v1/auth/revoke", files=form))
    assert "OSError: [Errno 27] File too large" in bug


@row("The schema is ahead")
def test_a_schema_that_is_ahead(project: Path, start: Start, new_url: str) -> None:
    migrate(project, new_url)
    with psycopg.connect(new_url) as connection:
        connection.execute("INSERT INTO alembic_version VALUES ('app_0123456789ab'), ('auth_3')")
    service = start(DATABASE_URL=new_url)
    service.log_in()
    assert post(service)().status_code == 201


@row("The schema belongs to another project, or to other answers")
def test_a_schema_of_other_answers(
    project: Path, start: Start, postgres: Postgres, new_url: str
) -> None:
    migrate(project, new_url)
    with psycopg.connect(new_url) as connection:
        connection.execute(
            "UPDATE alembic_version SET version_num = 'subject_items' WHERE version_num = 'items'"
        )
    variables = {"DATABASE_URL": new_url, "AUTH_SECRET": token_hex(32)}
    refused = run(project, UV, "run", "-q", COMMAND, "serve", **variables)
    assert refused.returncode == 1
    assert "The database has the migration subject_items, whose branch is not" in refused.stdout
    assert "Traceback" not in refused.stdout
    # Not seen at the start, since the database was unreachable.
    postgres.halt()
    service = start(is_ready=False, DATABASE_URL=new_url)
    postgres.begin()
    assert "subject_items" in explain(service, service.client.get("/health/ready"))


@row("A migration changes a type while the service runs")
def test_a_type_that_changes(service: Service, postgres: Postgres) -> None:
    assert post(service)().status_code == 201
    assert get(service)().status_code == 200
    with postgres.connect() as connection:
        connection.execute("ALTER TABLE items ALTER name TYPE text")
    assert "cached statement plan is invalid" in explain(service, get(service)())
    assert get(service)().status_code == 200
    check_pools(service, postgres)


def guess(service: Service, email: str) -> httpx2.Response:
    form = {"grant_type": "password", "username": email, "password": "a guess"}
    return service.client.post("/v1/auth/token", data=form)


@row("A client logs in, signs up or refreshes too often")
def test_a_client_that_goes_on_and_on(start: Start, migrated: None) -> None:
    service = start()
    account = {"email": "ada@example.com", "password": token_hex(16)}
    form = {"username": account["email"], "password": account["password"]}
    service.client.headers["X-Forwarded-For"] = f"fd00:{token_hex(2)}:{token_hex(2)}::1"

    def sign_up() -> int:
        return service.client.post("/v1/auth/users", json=account).status_code

    def refresh() -> int:
        form = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}
        response = service.client.post("/v1/auth/token", data=form)
        token.update(response.json())
        return response.status_code

    assert [sign_up() for _ in range(21)] == [201] + [409] * 19 + [429]
    token = service.client.post("/v1/auth/token", data=form | {"grant_type": "password"}).json()
    assert [refresh() for _ in range(61)] == [200] * 60 + [429]
    statuses = [guess(service, f"user{number}@example.com").status_code for number in range(21)]
    assert statuses == [400] * 20 + [429]
    # Whatever was done with its tokens, a session ends at once.
    revocation = {"token": token["refresh_token"]}
    assert service.client.post("/v1/auth/revoke", data=revocation).status_code == 200
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    assert service.client.get("/v1/auth/me", headers=headers).status_code == 401
    for event in ("sign_up", "login"):
        assert len(service.events(event=event, reason="too many attempts")) == 1


@row("An account has had 100 failures in a row")
def test_an_account_at_which_somebody_guesses(
    start: Start, migrated: None, postgres: Postgres
) -> None:
    owner, stranger = start(), start()
    email = owner.log_in()
    failures = 0
    with postgres.connect(autocommit=True) as connection:
        for _ in range(300):
            response = guess(stranger, email)
            failures += response.status_code == 400
            # As if it had waited, and came from everywhere.
            connection.execute("UPDATE attempts SET blocked_until = now() WHERE failures < 100")
            connection.execute("DELETE FROM attempts WHERE expires_at < now() + interval '1 hour'")
    assert failures == 100
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) > 29 * 86_400
    assert guess(stranger, "nobody@example.com").status_code == 400
    # A device that has logged in before is not among the strangers.
    assert guess(owner, email).status_code == 400
