"""Workers of a rendered project that are killed, stopped and blocked: real processes."""

import json
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from threading import Thread
from typing import Any, ClassVar, LiteralString

import httpx2
import pytest
from breakable import COMMAND, Postgres, Service, row
from harness import UV, add_code, add_lines, eventually, make_environment, render, run, succeed
from postgres import HOST, free_port
from psycopg import sql

# How often each test runs. `nox -s crashes` runs them more often.
ROUNDS = int(os.environ.get("ROUNDS", "3"))

JOBS = """
import asyncio
import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import DatabaseState
from ..jobs import job


class Work(BaseModel):
    tag: str
    seconds: float = 0  # that its first attempt takes
    deed: str = ""


class Doomed(Work):
    pass


class Tick(BaseModel):
    tag: str = "tick"


@job
async def do_work(work: Work, session: AsyncSession, state: DatabaseState) -> None:
    path = Path(os.environ["STARTS"])
    is_first = f" {work.tag}\\n" not in path.read_text()
    with path.open("a") as file:
        file.write(f"{os.getpid()} {work.tag}\\n")
    await session.execute(text("INSERT INTO effects VALUES (:tag)"), {"tag": work.tag})
    if work.deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif work.deed == "raise":
        raise RuntimeError("no paper")
    elif work.deed == "block" and is_first:
        time.sleep(work.seconds)
    if is_first:
        await asyncio.sleep(work.seconds)


@job(attempts=2)
async def be_doomed(work: Doomed, session: AsyncSession, state: DatabaseState) -> None:
    await do_work(work, session, state)


@job(cron="0 0 1 1 *")
async def tick(payload: Tick, session: AsyncSession, state: DatabaseState) -> None:
    await do_work(Work(tag=payload.tag), session, state)
"""
ROUTER = """
from ..dependencies import SessionDep
from ..errors import Conflict
from ..jobs.dependencies import JobsDep
from ..mail.dependencies import MailDep
from ..routing import Router
from .jobs import Doomed, Work

router = Router(prefix="/works", tags=["works"])


@router.post("/mail", status_code=202)
async def send_mail(mail: MailDep) -> None:
    await mail.send("ada@example.com", "test")


@router.post("", status_code=202)
async def add_work(session: SessionDep, jobs: JobsDep, work: Work) -> None:
    is_doomed = work.deed in {"kill", "raise"}
    await jobs.add(session, Doomed(**work.model_dump()) if is_doomed else work)
    if work.deed == "conflict":
        raise Conflict
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    folder = Path(mkdtemp(prefix="jobs-"))
    postgres = Postgres(folder)
    postgres.begin()
    yield postgres
    postgres.halt()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def project(template: Path, server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "rendered"
    project = render(template, folder, auth="none", jobs="postgres", mail="smtp")
    add_code(project, "src/my_service/works/jobs.py", JOBS)
    add_code(project, "src/my_service/works/router.py", ROUTER)
    app = project / "src" / "my_service" / "app.py"
    add_lines(app, "imports", "from .works.router import router as works")
    add_lines(app, "routers", "app.include_router(works)")
    succeed(project, UV, "sync", "--quiet")
    command(project, server, "migrate")
    with server.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE effects (tag text)")
    return project


def command(project: Path, server: Postgres, *arguments: str) -> str:
    return succeed(project, UV, "run", "-q", COMMAND, *arguments, DATABASE_URL=server.url)


# Where no mail server listens, except in one test.
MAIL_PORT = free_port()
MAIL = {"MAIL_URL": f"smtp://127.0.0.1:{MAIL_PORT}", "MAIL_SENDER": "no-reply@example.com"}


class Worker:
    """A process that runs jobs, and what it has logged."""

    def __init__(
        self, project: Path, url: str, starts: Path, *arguments: str, **variables: str
    ) -> None:
        self.path = starts.with_name(f"{token_hex(4)}.log")
        environment = make_environment(
            PATH=f"{project / '.venv/bin'}:{os.environ['PATH']}",
            DATABASE_URL=url,
            STARTS=str(starts),
            **MAIL,
            **variables,
        )
        with self.path.open("wb") as log:
            self.process = subprocess.Popen(
                [COMMAND, "work", *arguments], cwd=project, env=environment, stdout=log, stderr=log
            )

    @property
    def log(self) -> str:
        return self.path.read_text()

    def jobs(self, **members: Any) -> list[dict[str, Any]]:
        """Return the lines about jobs that have these members."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        members["event"] = "job"
        return [line for line in lines if line.items() >= members.items()]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(30)


class Queue:
    """A service that adds jobs, its workers, and what they have done."""

    def __init__(self, project: Path, server: Postgres, folder: Path, stack: ExitStack) -> None:
        self.project = project
        self.server = server
        self.stack = stack
        self.starts = folder / "starts"
        self.starts.touch()
        with server.connect(autocommit=True) as connection:
            connection.execute("TRUNCATE effects, jobs")
        variables = {"DATABASE_URL": server.url, "AUTH_SECRET": token_hex(32), **MAIL}
        self.service = Service(project, variables, "--drain=0")
        stack.callback(self.service.stop)
        assert eventually(self.service.answers), self.service.log

    def start_worker(self, *arguments: str, **variables: str) -> Worker:
        worker = Worker(self.project, self.server.url, self.starts, *arguments, **variables)
        self.stack.callback(worker.stop, signal.SIGKILL)
        return worker

    def add(self, tag: str, seconds: float = 0, deed: str = "") -> httpx2.Response:
        work = {"tag": tag, "seconds": seconds, "deed": deed}
        return self.service.client.post("/works", json=work)

    def insert(self, name: str, payload: str) -> None:
        """Add a job as another version of the service would."""
        with self.server.connect(autocommit=True) as connection:
            connection.execute(
                "INSERT INTO jobs "
                "(id, name, payload, context, attempts, due_at, created_at, updated_at) "
                "VALUES (gen_random_uuid(), %s, %s, '{}', 0, now(), now(), now())",
                [name, payload],
            )

    def query(self, statement: LiteralString) -> list[Any]:
        with self.server.connect(autocommit=True) as connection:
            cursor = connection.execute(statement)
            return [value for (value, *_) in cursor] if cursor.description else []

    def has_started(self, tag: str) -> list[int]:
        """Return the process of each start of a job."""
        return [
            int(process)
            for process in re.findall(rf"^(\d+) {tag}$", self.starts.read_text(), re.MULTILINE)
        ]

    def effects(self) -> list[str]:
        return sorted(self.query("SELECT tag FROM effects"))

    def is_empty(self) -> bool:
        return self.query("SELECT count(*) FROM jobs WHERE schedule IS NULL") == [0]


@pytest.fixture(params=range(ROUNDS))
def queue(project: Path, server: Postgres, tmp_path: Path) -> Iterator[Queue]:
    with ExitStack() as stack:
        yield Queue(project, server, tmp_path, stack)


class Inbox(socketserver.StreamRequestHandler):
    """A mail server: what clients have sent is in `messages`."""

    messages: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                self.messages.append(b"".join(iter(self.rfile.readline, b".\r\n")))
            self.wfile.write(b"250 OK\r\n")


class MailServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@row("A worker is killed")
def test_a_worker_that_is_killed_loses_no_job(queue: Queue) -> None:
    workers = {worker.process.pid: worker for worker in (queue.start_worker() for _ in range(2))}
    queue.add("long", seconds=60)
    assert eventually(lambda: bool(queue.has_started("long")))
    for index in range(20):
        queue.add(f"short {index}")
    [process] = queue.has_started("long")
    workers.pop(process).stop(signal.SIGKILL)
    # The lease ends after 10 seconds.
    assert eventually(queue.is_empty), queue.query("SELECT name FROM jobs")
    assert queue.effects() == sorted(["long", *(f"short {index}" for index in range(20))])
    [survivor] = workers.values()
    assert eventually(lambda: bool(survivor.jobs(attempt=2, outcome="done")))


@row("A job kills its worker")
def test_a_job_that_kills_its_worker_is_given_up(queue: Queue) -> None:
    queue.add("killer", deed="kill")
    for _ in range(2):
        worker = queue.start_worker()
        assert worker.process.wait(30) == -signal.SIGKILL
    worker = queue.start_worker()
    failed = "SELECT error FROM jobs WHERE failed_at IS NOT NULL"
    assert eventually(lambda: bool(queue.query(failed)), 30)
    assert "WorkerDied" in queue.query(failed)[0]
    assert len(queue.has_started("killer")) == 2
    assert queue.effects() == []
    queue.add("next")
    assert eventually(lambda: queue.effects() == ["next"])


@row("A worker gets SIGTERM")
def test_after_sigterm_jobs_end_or_are_released(queue: Queue) -> None:
    worker = queue.start_worker("--grace=5")
    queue.add("short", seconds=2)
    queue.add("long", seconds=60)
    assert eventually(lambda: bool(queue.has_started("short") and queue.has_started("long")))
    other = queue.start_worker()
    assert worker.stop() == 0
    assert "short" in queue.effects()
    assert len(worker.jobs(outcome="done")) == 1
    assert len(worker.jobs(outcome="released")) == 1
    # Another worker starts it at once, and the attempt did not count.
    assert eventually(lambda: len(queue.has_started("long")) == 2)
    assert eventually(lambda: bool(other.jobs(attempt=1, outcome="done")))
    assert queue.is_empty()
    assert queue.effects() == ["long", "short"]


def test_after_a_second_signal_jobs_are_released_at_once(queue: Queue) -> None:
    worker = queue.start_worker("--grace=1000")
    queue.add("long", seconds=60)
    assert eventually(lambda: bool(queue.has_started("long")))
    worker.process.send_signal(signal.SIGTERM)
    assert eventually(lambda: "worker stops" in worker.log)
    assert worker.process.poll() is None
    assert worker.stop() == 0
    assert len(worker.jobs(outcome="released")) == 1
    other = queue.start_worker()
    assert eventually(lambda: bool(other.jobs(attempt=1, outcome="done")))
    assert queue.effects() == ["long"]


@row("The database is killed while workers run")
def test_a_database_that_is_killed_loses_no_accepted_job(queue: Queue) -> None:
    workers = [queue.start_worker() for _ in range(2)]
    tags = [token_hex(8) for _ in range(300)]

    def add(tag: str) -> str:
        time.sleep(0.01)
        with suppress(httpx2.TransportError):
            if queue.add(tag).status_code == 202:
                return tag
        return ""

    with ThreadPoolExecutor(4) as threads:
        results = threads.map(add, tags)
        time.sleep(0.5)
        queue.server.kill()
        queue.server.begin()
        accepted = {tag for tag in results if tag}
    assert accepted
    assert eventually(queue.is_empty, 40), queue.query("SELECT error FROM jobs")
    effects = queue.effects()
    assert len(effects) == len(set(effects))
    assert accepted <= set(effects) <= set(tags)
    for worker in workers:
        assert worker.process.poll() is None
        assert worker.log.count("the queue is unreachable") <= 1


@row("The database is frozen while workers run")
def test_a_database_that_is_frozen_loses_no_accepted_job(queue: Queue) -> None:
    worker = queue.start_worker()
    queue.add("running", seconds=2)
    assert eventually(lambda: bool(queue.has_started("running")))
    queue.server.send(signal.SIGSTOP)
    try:
        assert queue.add("during").status_code == 503
        assert eventually(lambda: "the queue is unreachable" in worker.log, 30)
    finally:
        queue.server.send(signal.SIGCONT)
    assert eventually(queue.service.answers)
    assert queue.add("after").status_code == 202
    assert eventually(queue.is_empty, 40), queue.query("SELECT error FROM jobs")
    assert queue.effects() in (["after", "running"], ["after", "during", "running"])
    assert worker.log.count("the queue is unreachable") == 1
    assert worker.stop() == 0


@row("A worker starts with a wrong password")
def test_a_worker_with_a_wrong_password_waits_for_the_right_one(queue: Queue) -> None:
    queue.add("patient")
    with queue.server.connect(autocommit=True) as connection:
        connection.execute("ALTER ROLE owner PASSWORD 'another'")
        try:
            worker = queue.start_worker()
            assert eventually(lambda: "the queue is unreachable" in worker.log, 30)
            assert worker.process.poll() is None
        finally:
            password = queue.server.password
            connection.execute(sql.SQL("ALTER ROLE owner PASSWORD {}").format(password))
    assert eventually(lambda: queue.effects() == ["patient"])
    assert password not in worker.log


@row("A worker is frozen")
def test_a_worker_that_is_frozen_writes_nothing_later(queue: Queue) -> None:
    frozen = queue.start_worker()
    queue.add("long", seconds=60)
    assert eventually(lambda: bool(queue.has_started("long")))
    frozen.process.send_signal(signal.SIGSTOP)
    other = queue.start_worker()
    assert eventually(lambda: queue.effects() == ["long"], 30)
    frozen.process.send_signal(signal.SIGCONT)
    assert eventually(lambda: bool(frozen.jobs(attempt=1, outcome="lost")))
    assert eventually(lambda: bool(other.jobs(attempt=2, outcome="done")))
    assert other.stop() == 0
    queue.add("next")
    assert eventually(lambda: queue.effects() == ["long", "next"])


@row("A handler raises")
def test_a_job_that_fails_is_kept_listed_retried_and_deleted(queue: Queue) -> None:
    queue.start_worker()
    queue.add("printer", deed="raise")
    assert eventually(lambda: bool(queue.query("SELECT 1 FROM jobs WHERE failed_at IS NOT NULL")))
    assert len(queue.has_started("printer")) == 2

    def list_jobs() -> list[dict[str, Any]]:
        lines = command(queue.project, queue.server, "jobs", "list").splitlines()
        return [job for job in map(json.loads, lines) if job["name"] == "Doomed"]

    [job] = list_jobs()
    assert (job["state"], job["attempts"]) == ("failed", 2)
    assert job["error"] == "RuntimeError('no paper')"
    assert json.loads(command(queue.project, queue.server, "jobs"))["failed"] == 1
    assert "is due" in command(queue.project, queue.server, "jobs", "retry", job["id"])
    assert eventually(lambda: len(queue.has_started("printer")) == 4)
    assert eventually(lambda: list_jobs()[0]["state"] == "failed")
    assert "was deleted" in command(queue.project, queue.server, "jobs", "delete", job["id"])
    assert list_jobs() == []
    for name in ("retry", "delete"):
        done = run(
            queue.project,
            UV,
            *("run", "-q", COMMAND, "jobs", name, job["id"]),
            DATABASE_URL=queue.server.url,
        )
        assert done.returncode == 1
        assert done.stdout.startswith("Error: There is no ")
    assert queue.effects() == []


def test_a_job_that_is_longer_than_its_lease_runs_once(queue: Queue) -> None:
    for _ in range(2):
        queue.start_worker()
    queue.add("long", seconds=14)
    assert eventually(lambda: queue.effects() == ["long"], 30)
    assert len(queue.has_started("long")) == 1


@row("A handler blocks the event loop")
def test_a_handler_that_blocks_the_event_loop_loses_leases_in_the_log(queue: Queue) -> None:
    first = queue.start_worker()
    queue.add("patient", seconds=17)
    assert eventually(lambda: bool(queue.has_started("patient")))
    queue.add("blocking", seconds=13, deed="block")
    assert eventually(lambda: bool(queue.has_started("blocking")))
    second = queue.start_worker()
    assert eventually(lambda: queue.is_empty() and len(first.jobs(outcome="lost")) >= 1, 60)
    effects = queue.effects()
    assert effects == ["blocking", "patient"]
    assert second.jobs(outcome="done")


def test_a_periodic_job_runs_once_at_each_time(queue: Queue) -> None:
    workers = [queue.start_worker() for _ in range(3)]
    listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    assert eventually(lambda: queue.query(listening) == [3])
    for _ in range(5):
        queue.query("TRUNCATE effects")
        queue.query("UPDATE jobs SET due_at = now() WHERE name = 'Tick'")
        assert eventually(lambda: queue.effects() == ["tick"])
        later = "SELECT 1 FROM jobs WHERE name = 'Tick' AND due_at > now() + interval '1 minute'"
        assert queue.query(later) == [1]
    assert len(queue.has_started("tick")) == 5
    # A time at which no worker runs is not missed.
    for worker in workers:
        assert worker.stop() == 0
    queue.query("UPDATE jobs SET due_at = now() - interval '30 seconds' WHERE name = 'Tick'")
    queue.start_worker()
    assert eventually(lambda: queue.effects() == ["tick", "tick"])


def test_a_worker_starts_as_many_jobs_as_it_may(queue: Queue) -> None:
    for tag in ("first", "second"):
        queue.add(tag, seconds=60)
    worker = queue.start_worker("--grace=0", JOBS_CONCURRENCY="1")
    assert eventually(lambda: bool(queue.has_started("first")))
    assert worker.stop() == 0
    assert len(worker.jobs(outcome="released")) == 1
    assert not queue.has_started("second")


def test_a_write_that_is_rolled_back_adds_no_job(queue: Queue) -> None:
    queue.start_worker()
    assert queue.add("nothing", deed="conflict").status_code == 409
    assert queue.add("something").status_code == 202
    assert eventually(lambda: queue.effects() == ["something"])
    assert queue.is_empty()


@row("A payload is not valid")
def test_a_worker_survives_a_payload_that_is_not_valid(queue: Queue) -> None:
    queue.insert("Work", "[1]")
    worker = queue.start_worker()
    assert eventually(lambda: len(worker.jobs(outcome="failed", attempt=1)) == 1)
    queue.add("next")
    assert eventually(lambda: queue.effects() == ["next"])
    assert worker.stop() == 0


@row("A job has no handler in this version")
def test_two_versions_of_the_service_run_side_by_side(queue: Queue, tmp_path: Path) -> None:
    shutil.copytree(queue.project / "src", tmp_path / "src")
    jobs = tmp_path / "src" / "my_service" / "works" / "jobs.py"
    new_field = 'deed: str = ""\n    color: str = "none"'
    code = jobs.read_text().replace('deed: str = ""', new_field).replace("Doomed", "Later")
    jobs.write_text(code)
    router = jobs.with_name("router.py")
    router.write_text(router.read_text().replace("Doomed", "Later"))
    old = queue.start_worker()
    queue.insert("Work", '{"tag": "colored", "color": "red"}')
    queue.insert("Later", '{"tag": "later"}')
    assert eventually(lambda: queue.has_started("colored") == [old.process.pid])
    queue.add("next")
    assert eventually(lambda: queue.effects() == ["colored", "next"])
    assert queue.query("SELECT attempts FROM jobs WHERE failed_at IS NULL AND name = 'Later'") == [
        0
    ]
    new = queue.start_worker(PYTHONPATH=str(tmp_path / "src"))
    assert eventually(lambda: queue.has_started("later") == [new.process.pid])
    assert old.stop() == 0
    queue.add("last")
    assert eventually(lambda: queue.has_started("last") == [new.process.pid])
    assert eventually(queue.is_empty)
    assert queue.effects() == ["colored", "last", "later", "next"]


@row("The mail server is unreachable while jobs send mail")
def test_mail_arrives_when_its_server_is_back(queue: Queue) -> None:
    Inbox.messages.clear()
    with socket.create_server((HOST, MAIL_PORT)):  # it accepts no connection
        worker = queue.start_worker()
        start = time.monotonic()
        assert queue.service.client.post("/works/mail").status_code == 202
        assert time.monotonic() - start < 5
        assert eventually(
            lambda: queue.query("SELECT attempts FROM jobs WHERE name = 'SendMail'") == [1]
        )
        worker.stop(signal.SIGKILL)
    queue.start_worker()
    # The lease ends. Then, nothing listens.
    error = "SELECT error FROM jobs WHERE name = 'SendMail'"
    assert eventually(lambda: "Error connecting" in str(queue.query(error)))
    with MailServer((HOST, MAIL_PORT), Inbox) as inbox:
        thread = Thread(target=inbox.serve_forever)
        thread.start()
        assert eventually(queue.is_empty)
        inbox.shutdown()
        thread.join()
    [message] = Inbox.messages
    assert b"Subject: Test message of" in message
