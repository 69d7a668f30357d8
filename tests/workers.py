"""A rendered service with jobs, and its workers, for tests that break them."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, LiteralString

import httpx2
import psycopg
from breakable import COMMAND, Clients, Nats, Postgres, Process, Service
from harness import UV, add_code, add_lines, eventually, render, run, succeed
from postgres import free_port

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

STARTS = Path(os.environ.get("STARTS", ""))


class Work(BaseModel):
    tag: str
    seconds: float = 0  # that its first attempt takes
    deed: str = ""
    padding: str = ""


class Doomed(Work):
    pass


class Note(BaseModel):
    tag: str


class Tick(BaseModel):
    tag: str = "tick"


def start(tag: str) -> bool:
    is_first = f" {tag}\\n" not in STARTS.read_text()
    with STARTS.open("a") as file:
        file.write(f"{os.getpid()} {tag}\\n")
    return is_first


@job
async def do_work(work: Work, session: AsyncSession, state: DatabaseState) -> None:
    is_first = start(work.tag)
    await session.execute(text("INSERT INTO effects VALUES (:tag)"), {"tag": work.tag})
    if work.deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif work.deed == "raise":
        raise RuntimeError("no paper")
    elif work.deed == "rant":
        raise RuntimeError(work.tag * 20_000)
    elif work.deed == "block" and is_first:
        time.sleep(work.seconds)
    elif work.deed == "wait":
        while not STARTS.with_name("go").exists():
            await asyncio.sleep(0.02)
    if is_first:
        await asyncio.sleep(work.seconds)


@job(attempts=2)
async def be_doomed(work: Doomed, session: AsyncSession, state: DatabaseState) -> None:
    await do_work(work, session, state)


@job
async def take_note(note: Note, session: AsyncSession, state: DatabaseState) -> None:
    # It uses no database.
    start(note.tag)


@job(cron="0 0 1 1 *")
async def tick(payload: Tick, session: AsyncSession, state: DatabaseState) -> None:
    await do_work(Work(tag=payload.tag), session, state)
"""
ROUTER = """
from datetime import timedelta

from ..database import utc_now
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
async def add_work(
    session: SessionDep, jobs: JobsDep, work: Work, key: str | None = None, delay: float = 0
) -> None:
    payload = Doomed(**work.model_dump()) if work.deed in {"kill", "raise", "rant"} else work
    at = utc_now() + timedelta(seconds=delay) if delay else None
    await jobs.add(session, payload, key=key, at=at)
    if work.deed == "conflict":
        raise Conflict
"""

# Another service runs its jobs.
BILLS = """
from pydantic import BaseModel

from ..dependencies import SessionDep
from ..jobs import handled_by
from ..jobs.dependencies import JobsDep
from ..routing import Router

router = Router(prefix="/bills", tags=["bills"])


@handled_by("billing")
class Bill(BaseModel):
    tag: str


@router.post("", status_code=202)
async def add_bill(
    session: SessionDep, jobs: JobsDep, bill: Bill, key: str | None = None
) -> None:
    await jobs.add(session, bill, key=key)
"""
# The same module in that service.
BILLING = """
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import DatabaseState
from ..jobs import job
from ..routing import Router
from .jobs import Work, do_work

router = Router()


class Bill(BaseModel):
    tag: str


@job
async def pay(bill: Bill, session: AsyncSession, state: DatabaseState) -> None:
    await do_work(Work(tag=bill.tag), session, state)
"""

# Where no mail server listens, except in one test.
MAIL_PORT = free_port()
MAIL = {"MAIL_URL": f"smtp://127.0.0.1:{MAIL_PORT}", "MAIL_SENDER": "no-reply@example.com"}


def make_project(template: Path, folder: Path, server: Postgres, engine: str) -> Path:
    """Render a service with jobs, install it, and make its tables."""
    project = render(template, folder, auth="none", jobs=engine, mail="smtp")
    add_code(project, "src/my_service/works/jobs.py", JOBS)
    add_code(project, "src/my_service/works/router.py", ROUTER)
    app = project / "src" / "my_service" / "app.py"
    add_lines(app, "imports", "from .works.router import router as works")
    add_lines(app, "routers", "app.include_router(works)")
    if engine == "nats":
        add_code(project, "src/my_service/works/bills.py", BILLS)
        add_lines(app, "imports", "from .works.bills import router as bills")
        add_lines(app, "routers", "app.include_router(bills)")
    succeed(project, UV, "sync", "--quiet")
    make_tables(project, server.url)
    return project


def make_path(project: Path) -> str:
    return f"{project / '.venv/bin'}:{os.environ['PATH']}"


def make_tables(project: Path, url: str, **variables: str) -> None:
    succeed(project, COMMAND, "migrate", DATABASE_URL=url, PATH=make_path(project), **variables)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE effects (tag text)")


class Worker(Process):
    """A process that runs jobs."""

    def __init__(self, project: Path, variables: dict[str, str], *arguments: str) -> None:
        super().__init__(project, variables, "work", *arguments)

    def jobs(self, **members: Any) -> list[dict[str, Any]]:
        """Return the lines of the log about jobs that have these members."""
        return self.events(event="job", **members)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


class Queue:
    """A service that adds jobs, its workers, and what they have done."""

    def __init__(
        self,
        project: Path,
        server: Postgres,
        brokers: list[Nats],
        folder: Path,
        stack: ExitStack,
    ) -> None:
        self.project = project
        self.server = server
        self.brokers = brokers  # those of a cluster
        self.folder = folder
        self.stack = stack
        self.workers: list[Worker] = []
        self.starts = folder / "starts"
        self.starts.touch()
        self.query("TRUNCATE effects, jobs")
        if brokers:
            self.query("TRUNCATE finished_jobs, job_streams")
            self.broker.call(f"STREAM.PURGE.{COMMAND}")
        self.service = Service(project, self.variables, "--drain=0")
        stack.callback(self.service.stop)
        assert eventually(self.service.answers), self.service.log

    @property
    def broker(self) -> Nats:
        return self.brokers[0]

    @property
    def variables(self) -> dict[str, str]:
        urls = ",".join(broker.url for broker in self.brokers)
        return {
            "DATABASE_URL": self.server.url,
            "AUTH_SECRET": token_hex(32),
            "STARTS": str(self.starts),
            **MAIL,
            **({"JOBS_NATS_URL": urls} if urls else {}),
        }

    def start_worker(self, *arguments: str, **variables: str) -> Worker:
        worker = Worker(self.project, self.variables | variables, *arguments)
        self.workers.append(worker)
        self.stack.callback(worker.stop, signal.SIGKILL)
        return worker

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the service."""
        variables = {"PATH": make_path(self.project)} | self.variables | variables
        return run(self.project, COMMAND, *arguments, **variables)

    def command(self, *arguments: str, **variables: str) -> str:
        """Return the output of a command that must succeed."""
        done = self.run(*arguments, **variables)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def list_jobs(self, **variables: str) -> list[dict[str, Any]]:
        """Return what `jobs list` prints, without the periodic jobs and the log."""
        lines = [
            json.loads(line) for line in self.command("jobs", "list", **variables).splitlines()
        ]
        return [line for line in lines if "state" in line and not line.get("schedule")]

    def add(
        self,
        tag: str,
        seconds: float = 0,
        deed: str = "",
        *,
        padding: str = "",
        **parameters: str | int,
    ) -> httpx2.Response:
        work = {"tag": tag, "seconds": seconds, "deed": deed, "padding": padding}
        return self.service.client.post("/works", json=work, params=parameters)

    def let_go(self) -> None:
        """Let jobs end that wait."""
        self.starts.with_name("go").touch()

    def insert(self, name: str, *payloads: str) -> None:
        """Add jobs as another version of the service would."""
        with self.server.connect() as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO jobs "
                "(id, name, payload, context, attempts, due_at, created_at, updated_at) "
                "VALUES (gen_random_uuid(), %s, %s, '{}', 0, now(), now(), now())",
                [(name, payload) for payload in payloads],
            )

    def publish(self, name: str, body: bytes | dict[str, Any], **headers: str) -> None:
        """Add a job as a program in another language would."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = self.broker.request(f"{COMMAND}.jobs.{name}", data, **headers)
        assert "error" not in response, response

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

    def errors(self) -> list[str]:
        """Return the errors of the jobs that are kept as failed."""
        return self.query("SELECT error FROM jobs WHERE failed_at IS NOT NULL ORDER BY id")

    def has_rows(self) -> bool:
        return self.query("SELECT count(*) FROM jobs WHERE schedule IS NULL") != [0]

    def is_empty(self) -> bool:
        # A job can move from the table to the stream, and back.
        if not self.brokers:
            return not self.has_rows()
        counts = [self.broker.count_messages(), self.has_rows(), self.broker.count_messages()]
        return not any(counts)

    def is_settled(self) -> bool:
        """Whether the jobs that are left have failed, or wait for a time."""
        has_due = self.query(
            "SELECT 1 FROM jobs WHERE failed_at IS NULL AND due_at <= now() AND schedule IS NULL"
        )
        return not has_due and not (self.brokers and self.broker.count_messages())

    def check_logs(self) -> None:
        """No password is in them."""
        secrets = {self.server.password, *(broker.password for broker in self.brokers)}
        for process in (self.service, *self.workers):
            for secret in secrets:
                assert secret not in process.path.read_text(errors="replace")


@contextmanager
def opening_queue(
    project: Path, server: Postgres, brokers: list[Nats], folder: Path
) -> Generator[Queue]:
    with ExitStack() as stack:
        for broker in brokers:
            stack.callback(broker.mend)
        queue = Queue(project, server, brokers, folder, stack)
        yield queue
        queue.check_logs()


class Load(Clients):
    """Clients that add jobs, one after the other. `tags` are those that the service accepted."""

    def __init__(self, queue: Queue, clients: int = 4) -> None:
        self.queue = queue
        self.tags: set[str] = set()
        super().__init__(clients)

    def work(self, number: int) -> None:
        while not self.is_over:
            tag = token_hex(8)
            with suppress(httpx2.TransportError):
                if self.queue.add(tag).status_code == 202:
                    self.tags.add(tag)
            time.sleep(0.01)

    def wait(self, number: int) -> None:
        """Wait for this number of further jobs."""
        number += len(self.tags)
        assert eventually(lambda: len(self.tags) >= number, 40)
