"""The rendered service and its references, on one PostgreSQL with the same rows."""

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp

import httpx2
from breakable import COMMAND, Postgres
from harness import UV, eventually, make_environment, render, succeed, take_snapshot
from postgres import HOST, free_port

from . import HERE

NAMES = ("floor", "framed", "keel", "plain")
PACKAGE = Path("src/my_service")
POOL = 20
USERS, ITEMS = 100, 1000
PASSWORD = token_hex()
OPTIONS = ("--max_connections=300", "--autovacuum=off", "--shared_buffers=256MB")
CORES = sorted(os.sched_getaffinity(0))
# Cores of the load and the database. With four cores, two servers get two others.
OTHERS = CORES[2:] if len(CORES) > 3 else CORES[1:] or CORES


def prepare(folder: Path, **answers: str) -> Path:
    """Render a project, add the extension, and install the dependencies."""
    (folder / "template").mkdir()
    project = render(take_snapshot(folder / "template"), folder / "project", **answers)
    shutil.copy(HERE / "extension.py", project / PACKAGE / "extension.py")
    app = project / PACKAGE / "app.py"
    text = app.read_text()
    for place, line in {
        "# Yours: imports\n": "from .extension import add_extension\n",
        "    # Yours: routers\n": "    add_extension(app)\n",
    }.items():
        text = text.replace(place, place + line)
    app.write_text(text)
    succeed(project, UV, "sync", "--quiet")
    return project


class Server:
    """One server process, on the given cores."""

    def __init__(
        self, name: str, project: Path, variables: dict[str, str], cores: list[int]
    ) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.path = project.parent / f"{name}-{self.port}.log"
        uvicorn = ["uvicorn", f"{name}:app", f"--app-dir={HERE}", "--no-access-log"]
        uvicorn += ["--loop=uvloop", "--http=httptools", "--log-level=warning"]
        command = [COMMAND, "serve"] if name == "keel" else uvicorn
        path = f"{project / '.venv/bin'}:{os.environ['PATH']}"
        with self.path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                cwd=project,
                env=make_environment(PATH=path, **variables),
                stdout=log,
                stderr=log,
            )
        os.sched_setaffinity(self.process.pid, cores)
        if not eventually(self.answers):
            raise RuntimeError(self.path.read_text())

    def answers(self) -> bool:
        with suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/health/live").status_code == 200
        return False

    @property
    def processor_time(self) -> float:
        """The CPU time of all threads, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> float:
        """The resident memory in MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@dataclass
class Bench:
    """A project, its database, and the data that requests need."""

    project: Path
    postgres: Postgres
    stack: ExitStack
    variables: dict[str, str]
    ids: Path
    token: str = ""

    def start(self, name: str, cores: list[int] | None = None, **variables: str) -> Server:
        """Start a server on these cores, by default the first. It stops with the bench."""
        server = Server(name, self.project, self.variables | variables, cores or CORES[:1])
        self.stack.callback(server.stop)
        return server

    def log_in(self, server: Server) -> None:
        form = {"grant_type": "password", "username": "user0@example.com", "password": PASSWORD}
        answer = httpx2.post(f"{server.url}/v1/auth/token", data=form)
        self.token = answer.raise_for_status().json()["access_token"]


def seed(bench: Bench, *, has_items: bool) -> None:
    """Store users with one password, and the items of the first of them."""
    hasher = "PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)"
    code = f"from argon2 import PasswordHasher; print({hasher}.hash({PASSWORD!r}))"
    hashed = succeed(bench.project, ".venv/bin/python", "-c", code).strip()
    with bench.postgres.connect() as connection:
        connection.execute(
            "INSERT INTO users SELECT uuidv7(), 'user' || number || '@example.com', %s, 'user', "
            "TRUE, now(), now() FROM generate_series(0, %s) AS number",
            [hashed, USERS - 1],
        )
        if not has_items:
            return
        connection.execute(
            "INSERT INTO items (id, owner_id, name, description, created_at, updated_at) "
            "SELECT uuidv7(), users.id, 'item ' || number, repeat('text ', 20), "
            "clock_timestamp(), clock_timestamp() "
            "FROM users, generate_series(1, %s) AS number WHERE email = 'user0@example.com'",
            [ITEMS],
        )
        connection.execute("ANALYZE users, items")
        ids = connection.execute("SELECT id FROM items ORDER BY id").fetchall()
    bench.ids.write_text("\n".join(str(item) for (item,) in ids))


@contextmanager
def running(**answers: str) -> Generator[Bench]:
    """Yield a bench whose database is migrated and filled. Organizations have no items yet."""
    with ExitStack() as stack:
        folder = Path(mkdtemp(prefix="benchmarks-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        project = prepare(folder, **answers)
        (folder / "postgres").mkdir()
        postgres = Postgres(folder / "postgres")
        postgres.begin(*OPTIONS)
        stack.callback(postgres.halt)  # stopped after the servers
        variables = {
            "DATABASE_URL": postgres.url,
            "DATABASE_POOL_SIZE": str(POOL),
            "AUTH_SECRET": token_hex(32),
            "AUTH_ACCESS_TOKEN_LIFETIME": "86400",
        }
        succeed(project, f".venv/bin/{COMMAND}", "migrate", **variables)
        bench = Bench(project, postgres, stack, variables, folder / "ids")
        seed(bench, has_items=answers.get("organizations") != "members")
        yield bench
