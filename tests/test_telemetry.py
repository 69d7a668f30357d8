"""The rendered service with telemetry: a real OTLP receiver, PostgreSQL, Valkey, and processes."""

import re
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

import httpx2
import pytest
from breakable import COMMAND, Postgres, Process, Service, Valkey, opening_postgres, row
from collector import Collector, Span
from harness import UV, add_code, add_lines, eventually, render, succeed
from metrics import Metric, read_metrics
from postgres import HOST, free_port

SIGNALS = ("traces", "metrics")
NOT_EXPORTED = "telemetry is not exported"
EXPORTED_AGAIN = "telemetry is exported again"
BLOCKED = "event loop blocked"
QUEUE = 2048  # spans that wait for the collector
BATCH = 512  # spans of one export

JOBS = """
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import DatabaseState
from ..jobs import job


class Work(BaseModel):
    word: str
    fails: bool = False


class Start(BaseModel):
    pass


@job(attempts=1)
async def do_work(work: Work, session: AsyncSession, state: DatabaseState) -> None:
    await session.execute(text("SELECT :word"), {"word": work.word})
    if work.fails:
        raise LookupError(work.word)


@job
async def show_that_it_runs(start: Start, session: AsyncSession, state: DatabaseState) -> None:
    pass
"""
ROUTER = """
from ..dependencies import SessionDep
from ..jobs.dependencies import JobsDep
from ..routing import Router
from ..telemetry import start_span
from .jobs import Work

router = Router(prefix="/works", tags=["works"])


@router.post("", status_code=202)
async def add_work(session: SessionDep, jobs: JobsDep, work: Work) -> None:
    await jobs.add(session, work)


@router.get("/spans/{count}")
async def make_spans(count: int) -> None:
    for number in range(count):
        with start_span("step", attributes={"number": number}):
            pass


@router.get("/error")
async def fail(word: str) -> None:
    raise KeyError(word)
"""
BLOCKING = """
import time
from pathlib import Path

from .routing import Router

router = Router(prefix="/blocking")


@router.get("/sleep")
async def sleep() -> None:
    time.sleep(2)


@router.get("/wait")
async def wait_for_file() -> None:
    while not Path("file").exists():
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "rendered"
    features = {"jobs": "postgres", "cache": "redis", "telemetry": "opentelemetry"}
    project = render(template, folder, **features)
    add_code(project, "src/my_service/works/jobs.py", JOBS)
    add_code(project, "src/my_service/works/router.py", ROUTER)
    app = project / "src" / "my_service" / "app.py"
    add_lines(app, "imports", "from .works.router import router as works")
    add_lines(app, "routers", "app.include_router(works)")
    succeed(project, UV, "sync", "--quiet")
    return project


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with opening_postgres() as postgres:
        yield postgres


@pytest.fixture(scope="module")
def valkey(project: Path) -> Iterator[Valkey]:
    valkey = Valkey(project)
    valkey.begin()
    yield valkey
    valkey.kill()


@pytest.fixture(scope="module")
def defaults(project: Path, postgres: Postgres, valkey: Valkey) -> dict[str, str]:
    """The variables of each process, whose database has its tables."""
    variables = {
        "DATABASE_URL": postgres.url,
        "AUTH_SECRET": token_hex(32),
        "CACHE_URL": valkey.url,
        "LIMITS_WRITES": "1000000/minute",
        # In milliseconds, unlike the next one.
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
    }
    succeed(project, UV, "run", "-q", COMMAND, "migrate", **variables)
    return variables


class Stage:
    """A collector, and processes that export to it."""

    def __init__(self, project: Path, defaults: dict[str, str], postgres: Postgres) -> None:
        self.project = project
        self.defaults = defaults
        self.postgres = postgres
        self.collector = Collector()
        self.collector.begin()
        self.secret = token_hex(16)  # in a header of the exports
        self.processes: list[Process] = []

    def start(self, **variables: str) -> Service:
        """Start a service, which is ready, with an account."""
        service = Service(self.project, self.complete(variables))
        self.add(service)
        assert eventually(service.answers), service.log
        service.log_in()
        return service

    def start_worker(self, **variables: str) -> Process:
        """Start a worker, and wait until it has run a job."""
        worker = Process(self.project, self.complete(variables), "work")
        self.add(worker)

        def has_run() -> bool:
            self.add_job()  # again, since another worker may have run the last one
            return bool(worker.events(event="job", job="Start"))

        assert eventually(has_run), worker.log
        return worker

    def add_job(self) -> None:
        with self.postgres.connect(autocommit=True) as connection:
            connection.execute(
                "INSERT INTO jobs "
                "(id, name, payload, context, attempts, due_at, created_at, updated_at) "
                "VALUES (gen_random_uuid(), 'Start', '{}', '{}', 0, now(), now(), now())"
            )

    def complete(self, variables: dict[str, str]) -> dict[str, str]:
        exports = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{self.secret}",
        }
        return self.defaults | exports | variables

    def add(self, process: Process) -> None:
        process.secrets.add(self.secret)
        self.processes.append(process)

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        """Each process exits with 0, and nothing secret was logged or exported."""
        self.collector.go_on()
        codes = [process.stop() for process in self.processes]
        self.collector.halt()
        assert codes == [0] * len(codes)
        for process in self.processes:
            process.check_log()
            for secret in process.secrets:
                assert not self.collector.has(secret)


@pytest.fixture
def stage(project: Path, defaults: dict[str, str], postgres: Postgres) -> Iterator[Stage]:
    with Stage(project, defaults, postgres) as stage:
        yield stage


class Running(NamedTuple):
    """Processes that several tests share. Their pools have one connection."""

    collector: Collector
    service: Service
    worker: Process
    ports: list[int]  # of their metrics


@pytest.fixture(scope="module")
def running(project: Path, defaults: dict[str, str], postgres: Postgres) -> Iterator[Running]:
    ports = [free_port(), free_port()]
    pools = {"DATABASE_POOL_SIZE": "1", "DATABASE_POOL_TIMEOUT": "1"}
    with Stage(project, defaults, postgres) as stage:
        service = stage.start(TELEMETRY_METRICS_PORT=str(ports[0]), **pools)
        worker = stage.start_worker(TELEMETRY_METRICS_PORT=str(ports[1]))
        service.has_bug = worker.has_bug = True
        yield Running(stage.collector, service, worker, ports)


def list_changes(process: Process, kind: str) -> list[str]:
    """Return what the log says about the export of a signal."""
    return [line["event"] for line in process.events(signal=kind)]


def has_changes(process: Process, *changes: str) -> bool:
    return all(list_changes(process, kind) == [*changes] for kind in SIGNALS)


def list_problems(process: Process) -> list[str]:
    """List warnings and errors, but not those of a busy machine."""
    lines = process.events(level="warning") + process.events(level="error")
    return [line["event"] for line in lines if line["event"] != BLOCKED]


def list_blocks(process: Process) -> list[str]:
    """Return each place where the event loop was blocked."""
    return [line["place"] for line in process.events(level="warning", event=BLOCKED)]


def send(client: httpx2.Client, method: str, path: str, **options: Any) -> str:
    """Send a request that is part of a trace of the client, and return the id of the trace."""
    trace_id = token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{token_hex(8)}-01"}
    response = client.request(method, path, headers=headers, **options)
    assert response.is_success, response.text
    return trace_id


def read(service: Service) -> str:
    return send(service.client, "GET", "/v1/items")


def find_trace(collector: Collector, trace_id: str) -> tuple[Span, list[Span]]:
    """Wait for a trace, and return the span of the request, which comes last, and the others."""

    def list_requests() -> list[Span]:
        return [span for span in collector.list_trace(trace_id) if span.kind == "SERVER"]

    assert eventually(lambda: bool(list_requests())), collector.spans
    [request] = list_requests()
    return request, [span for span in collector.list_trace(trace_id) if span is not request]


def wait_for(collector: Collector, condition: Callable[[Span], bool]) -> list[Span]:
    def find() -> list[Span]:
        return [span for span in [*collector.spans] if condition(span)]

    assert eventually(lambda: bool(find())), collector.spans
    return find()


def check_is_not_exported(service: Service, cause: str = "") -> None:
    """Each signal is reported once, although more exports fail. Requests do not notice it."""
    assert eventually(lambda: bool(read(service)) and has_changes(service, NOT_EXPORTED))
    end = time.monotonic() + 2.5  # longer than an export may take
    while time.monotonic() < end:
        read(service)
        time.sleep(0.02)  # on a fast machine, more spans would not fit into the queue
    assert has_changes(service, NOT_EXPORTED), service.log
    assert list_problems(service) == [NOT_EXPORTED] * len(SIGNALS)
    for line in service.events(event=NOT_EXPORTED):
        assert cause in line["cause"]


def check_is_exported_again(service: Service, collector: Collector) -> None:
    assert eventually(
        lambda: bool(read(service)) and has_changes(service, NOT_EXPORTED, EXPORTED_AGAIN)
    ), service.log
    find_trace(collector, read(service))
    assert list_problems(service) == [NOT_EXPORTED] * len(SIGNALS)


@row("The collector is unreachable when the process starts")
def test_a_collector_that_is_unreachable_at_the_start(stage: Stage) -> None:
    stage.collector.halt()
    service = stage.start()
    check_is_not_exported(service, "Connection refused")
    stage.collector.begin()
    check_is_exported_again(service, stage.collector)


@row("The collector is stopped while the service runs, and starts again")
def test_a_collector_that_stops_and_comes_back(stage: Stage) -> None:
    service = stage.start()
    find_trace(stage.collector, read(service))
    stage.collector.halt()
    check_is_not_exported(service, "Connection refused")
    stage.collector.begin()
    check_is_exported_again(service, stage.collector)


@row("The collector is frozen")
def test_a_collector_that_is_frozen(stage: Stage) -> None:
    service = stage.start()
    find_trace(stage.collector, read(service))
    stage.collector.freeze()
    check_is_not_exported(service, "due to timeout")
    stage.collector.go_on()
    check_is_exported_again(service, stage.collector)


@row("The collector is slow")
def test_a_collector_that_is_slow(stage: Stage) -> None:
    stage.collector.delay = 0.5
    service = stage.start(OTEL_EXPORTER_OTLP_TIMEOUT="30")
    traces = [read(service) for _ in range(50)]
    for trace_id in traces:
        find_trace(stage.collector, trace_id)
    assert list_problems(service) == []


@row("The collector refuses what it gets")
@pytest.mark.parametrize(
    ("status", "cause"),
    [(401, "Unauthorized"), (429, "Too Many Requests"), (503, "Service Unavailable")],
)
def test_a_collector_that_refuses(stage: Stage, status: int, cause: str) -> None:
    service = stage.start()
    stage.collector.status = status
    check_is_not_exported(service, cause)
    stage.collector.status = 200
    check_is_exported_again(service, stage.collector)


def measure_end(process: Process) -> float:
    started = time.monotonic()
    assert process.stop() == 0
    return time.monotonic() - started


@row("The process ends while the collector is frozen")
@pytest.mark.parametrize("start", [Stage.start, Stage.start_worker])
def test_a_process_that_ends_while_the_collector_is_frozen(
    stage: Stage, start: Callable[..., Process]
) -> None:
    without = start(stage, OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")
    seconds = measure_end(without)
    stage.collector.freeze()
    process = start(stage, OTEL_EXPORTER_OTLP_TIMEOUT="60")
    assert eventually(lambda: stage.collector.waiting > 0)
    assert measure_end(process) < seconds + 2 + 3  # the machine may be busy
    assert list_problems(process) == []
    if isinstance(process, Service):
        assert process.events(event="Application shutdown complete.")


@row("The port for metrics is taken")
def test_a_port_that_is_taken(stage: Stage) -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        service = stage.start(TELEMETRY_METRICS_PORT=str(port))
    [line] = service.events(level="warning")
    assert line.items() >= {"event": "metrics are not served", "port": port}.items()
    assert line["cause"] == "Address already in use"
    find_trace(stage.collector, read(service))
    assert eventually(lambda: "/v1/metrics" in stage.collector.requests)


@pytest.mark.parametrize(
    ("variable", "header"),
    [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic;{}"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "an authorization={}"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "authorization=Basic%0A{}"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(
    project: Path, defaults: dict[str, str], variable: str, header: str
) -> None:
    """OpenTelemetry's SDK would log it."""
    secret = token_hex(16)
    exports = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:1", variable: header.format(secret)}
    worker = Process(project, defaults | exports, "work")
    try:
        assert eventually(lambda: worker.process.poll() == 1)
    finally:
        worker.stop()
        assert secret not in worker.log
    assert variable in worker.log


@pytest.mark.parametrize(
    "variable", ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_METRICS_EXEMPLAR_FILTER"]
)
def test_a_variable_that_only_the_sdk_reads(stage: Stage, variable: str) -> None:
    """A service with a wrong one works, and says so once."""
    service = stage.start(**{variable: "wrong"})
    end = time.monotonic() + 1  # several times as long as the interval
    while time.monotonic() < end:
        read(service)
    assert list_problems(service) == ["telemetry is incomplete"]


def make_spans(service: Service, count: int) -> None:
    for _ in range(count // 500):
        assert service.client.get("/works/spans/500").is_success


def test_memory_does_not_grow_while_the_collector_is_frozen(stage: Stage) -> None:
    """No request waits, either: the client would give up before the export does."""
    service = stage.start(OTEL_EXPORTER_OTLP_TIMEOUT="60")
    stage.collector.freeze()
    make_spans(service, 5 * QUEUE)
    memory = service.reset_peak_memory()
    make_spans(service, 20 * QUEUE)  # of about a kilobyte
    assert service.peak_memory - memory < 10 * 1024
    stage.collector.go_on()
    find_trace(stage.collector, read(service))
    steps = {span.span_id for span in stage.collector.spans if span.name == "step"}
    assert 0 < len(steps) <= QUEUE + BATCH
    assert {*list_problems(service)} == {"Queue full, dropping Span."}


def test_a_request_is_part_of_the_trace_of_its_client(running: Running) -> None:
    name, parent_id, trace_id = token_hex(8), token_hex(8), token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{parent_id}-01"}
    client = running.service.client
    client.post("/v1/items", headers=headers, json={"name": name}).raise_for_status()
    request, others = find_trace(running.collector, trace_id)
    assert (request.name, request.parent_id) == ("POST /v1/items", parent_id)
    assert request.attributes["http.route"] == "/v1/items"
    assert request.attributes["http.response.status_code"] == 201
    [insert] = [span for span in others if span.attributes["db.operation.name"] == "INSERT"]
    assert insert.kind == "CLIENT"
    assert insert.parent_id == request.span_id
    assert insert.attributes["db.query.text"].startswith("INSERT INTO items (")
    assert insert.attributes["db.client.connection.pool.name"] == "writer"
    assert not running.collector.has(name)


def find_ids(process: Process, **members: Any) -> tuple[str, str]:
    """Wait for a line of the log, and return the ids of its trace and span."""
    assert eventually(lambda: bool(process.events(**members))), process.log
    [line] = process.events(**members)
    return line["trace_id"], line["span_id"]


def add_work(running: Running, **work: Any) -> tuple[Span, Span, list[Span]]:
    """Add a job. Return the spans of the request and of the job, which are in the logs, and those
    of the job's statements.
    """
    headers = {"X-Request-ID": token_hex(16)}
    line = {"request_id": headers["X-Request-ID"]}
    running.service.client.post("/works", headers=headers, json=work).raise_for_status()
    trace_id, span_id = find_ids(running.service, event="request", **line)
    request, _ = find_trace(running.collector, trace_id)
    assert request.span_id == span_id
    trace_id, span_id = find_ids(running.worker, event="job", **line)
    [job] = wait_for(running.collector, lambda span: span.span_id == span_id)
    assert job.trace_id == trace_id
    children = running.collector.list_trace(trace_id)
    return request, job, [span for span in children if span.parent_id == span_id]


def test_a_job_has_a_link_to_its_request(running: Running) -> None:
    word = token_hex(8)
    request, job, statements = add_work(running, word=word)
    assert (job.name, job.kind) == ("job Work", "CONSUMER")
    assert job.trace_id != request.trace_id
    assert job.links == [(request.trace_id, request.span_id)]
    assert job.attributes == {"job.name": "Work", "job.attempt": 1, "job.outcome": "done"}
    assert "SELECT $1" in {span.attributes["db.query.text"][:9] for span in statements}
    assert not running.collector.has(word)


def check_error(span: Span, error: str, kind: str) -> None:
    """The span has the error, without its text."""
    assert span.is_error
    assert span.attributes["error.type"] == kind
    [(name, attributes)] = span.events
    assert name == "exception"
    assert attributes["exception.type"] == error
    assert attributes["exception.message"] == f"{error}('[hidden]')"
    assert attributes["exception.stacktrace"].startswith("Traceback")


def test_a_job_that_fails_has_its_error_without_values(running: Running) -> None:
    word = token_hex(8)
    _, job, _ = add_work(running, word=word, fails=True)
    assert job.attributes["job.outcome"] == "failed"
    check_error(job, "LookupError", "LookupError")
    assert not running.collector.has(word)


def test_an_unexpected_error_has_no_values(running: Running) -> None:
    word, trace_id = token_hex(8), token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{token_hex(8)}-01"}
    response = running.service.client.get(f"/works/error?word={word}", headers=headers)
    assert response.status_code == 500
    request, _ = find_trace(running.collector, trace_id)
    check_error(request, "KeyError", "500")
    assert not running.collector.has(word)


@pytest.mark.parametrize("path", ["/v1/items", "/v1/nowhere", "/works/spans/1"])
def test_values_of_query_strings_are_not_exported(running: Running, path: str) -> None:
    word, trace_id = token_hex(8), token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{token_hex(8)}-01"}
    running.service.client.get(f"{path}?token={word}&flag&limit={word}", headers=headers)
    request, _ = find_trace(running.collector, trace_id)
    assert request.attributes["url.path"] == path
    assert request.attributes["url.query"] == "REDACTED"
    assert not running.collector.has(word)


def test_probes_have_no_spans(running: Running) -> None:
    client, collector = running.service.client, running.collector
    trace_ids = [send(client, "GET", f"/health/{kind}") for kind in ("live", "ready")]
    find_trace(collector, read(running.service))
    assert [span for trace_id in trace_ids for span in collector.list_trace(trace_id)] == []
    assert not collector.has("/health/")


def check_resources(collector: Collector, expected: dict[str, str]) -> None:
    assert eventually(lambda: bool(collector.spans and collector.resources))
    for resource in [span.resource for span in collector.spans] + collector.resources:
        assert resource.items() >= expected.items()


def test_the_resource_names_the_service(running: Running) -> None:
    expected = {
        "service.name": "my-service",
        "service.version": "0.1.0",
        "deployment.environment.name": "production",
    }
    check_resources(running.collector, expected)


def test_the_environment_changes_what_is_exported(stage: Stage) -> None:
    stage.start(
        OTEL_SERVICE_NAME="other",
        OTEL_RESOURCE_ATTRIBUTES="service.name=no,deployment.environment.name=staging,team=blue",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Basic%20b3RoZXI=",
    )
    expected = {"service.name": "other", "deployment.environment.name": "staging", "team": "blue"}
    check_resources(stage.collector, expected)
    assert stage.collector.authorizations == {"Basic b3RoZXI="}


def test_the_sampler_decides_about_traces_that_no_client_samples(stage: Stage) -> None:
    service = stage.start(
        OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0"
    )
    assert service.client.get("/v1/items").is_success
    headers = {"traceparent": f"00-{token_hex(16)}-{token_hex(8)}-00"}
    assert service.client.get("/v1/items", headers=headers).is_success
    trace_id = read(service)
    find_trace(stage.collector, trace_id)
    assert {span.trace_id for span in stage.collector.spans} == {trace_id}
    assert all("trace_id" in line for line in service.events(event="request", route="/v1/items"))


def test_the_rest_is_exported_when_a_process_ends(stage: Stage) -> None:
    service = stage.start(OTEL_BSP_SCHEDULE_DELAY="600000", OTEL_METRIC_EXPORT_INTERVAL="600000")
    trace_id = read(service)
    assert service.stop() == 0
    assert stage.collector.list_trace(trace_id)
    metrics = {metric.name for metric in stage.collector.metrics}
    assert "http.server.request.duration" in metrics
    assert list_problems(service) == []


@pytest.mark.parametrize("variable", ["OTEL_SDK_DISABLED=true", "OTEL_EXPORTER_OTLP_ENDPOINT="])
def test_nothing_is_exported(stage: Stage, variable: str) -> None:
    name, _, value = variable.partition("=")
    service = stage.start(**{name: value})
    read(service)
    assert service.stop() == 0
    assert stage.collector.requests == []
    assert list_problems(service) == []


def use_everything(client: httpx2.Client, postgres: Postgres, valkey: Valkey) -> None:
    """Cause each event that has a metric."""
    lamp, statistics = {"name": "lamp"}, "/v1/items/statistics/words"
    with ThreadPoolExecutor() as threads, postgres.locked():
        write = threads.submit(client.post, "/v1/items", json=lamp)
        assert eventually(lambda: postgres.count_waiting() == 1)
        assert client.post("/v1/items", json=lamp).status_code == 503
    assert write.result().status_code == 201
    with ThreadPoolExecutor(5) as threads:  # which wait for the only connection
        responses = threads.map(client.get, ["/v1/items"] * 200)
        assert all(response.is_success for response in responses)
    assert client.get("/v1/nowhere").status_code == 404
    assert client.get("/works/error?word=lamp").status_code == 500
    assert client.post("/works", json={"word": "lamp"}).is_success
    for _ in range(2):
        assert client.get(statistics).is_success
    valkey.halt()
    assert client.get(statistics).is_success
    valkey.begin()


def test_the_docs_list_the_metrics(
    project: Path, postgres: Postgres, valkey: Valkey, running: Running
) -> None:
    use_everything(running.service.client, postgres, valkey)
    metrics = {*read_metrics(project)}
    collector, ports = running.collector, running.ports
    assert eventually(lambda: find_metrics(collector) == metrics), find_metrics(collector) ^ metrics
    series = {name: labels for metric in metrics for name, labels in metric.list_series().items()}
    assert eventually(lambda: read_series(*ports) == series), read_series(*ports)


def find_metrics(collector: Collector) -> set[Metric]:
    """Return what was exported, as the docs list it."""
    return {
        Metric(name, unit, "gauge" if kind == "sum" else kind, frozenset(attributes))
        for (name, kind, unit), attributes in [*collector.metrics.items()]
    }


def read_series(*ports: int) -> dict[str, set[str]]:
    """Return the labels of each series that processes serve to Prometheus."""
    pages = [httpx2.get(f"http://{HOST}:{port}/metrics").raise_for_status().text for port in ports]
    series: defaultdict[str, set[str]] = defaultdict(set)
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", "".join(pages), re.MULTILINE):
        series[name] |= {*re.findall(r'(\w+)="', labels)}
    assert series.pop("target_info") >= {"service_name", "service_version"}
    return series


@pytest.fixture(scope="module")
def blocking(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without telemetry, with an endpoint that blocks the event loop."""
    folder = tmp_path_factory.mktemp("blocking") / "rendered"
    project = render(template, folder, database="none", auth="none")
    (project / "src" / "my_service" / "blocking.py").write_text(BLOCKING)
    app = project / "src" / "my_service" / "app.py"
    add_lines(app, "imports", "from .blocking import router as blocking")
    add_lines(app, "routers", "app.include_router(blocking)")
    succeed(project, UV, "sync", "--quiet")
    return project


@pytest.fixture
def service(blocking: Path) -> Iterator[Service]:
    service = Service(blocking, {"AUTH_SECRET": token_hex(32)}, "--drain=0")
    assert eventually(service.answers), service.log
    yield service
    assert service.stop() == 0
    service.check_log()


@row("A function blocks the event loop")
def test_an_event_loop_that_is_blocked(service: Service) -> None:
    assert service.client.get("/blocking/sleep").is_success
    assert eventually(lambda: bool(list_blocks(service)))
    [place] = list_blocks(service)
    assert re.fullmatch(r"sleep \(my_service\.blocking:\d+\)", place)
    [line] = service.events(event=BLOCKED)
    assert 1 < line["seconds"] < 10


def test_a_block_is_reported_before_it_ends(service: Service, blocking: Path) -> None:
    with ThreadPoolExecutor() as threads:
        response = threads.submit(service.client.get, "/blocking/wait")
        try:
            assert eventually(lambda: bool(list_blocks(service)))
        finally:
            (blocking / "file").touch()
        assert response.result().is_success
    [place] = list_blocks(service)
    assert place.startswith("wait_for_file (my_service.blocking:")


def test_a_process_that_was_stopped_was_not_blocked(service: Service) -> None:
    for _ in range(2):
        service.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        service.process.send_signal(signal.SIGCONT)
        assert service.answers()
        time.sleep(0.5)  # the thread that watches looks a few times
    assert list_blocks(service) == []
