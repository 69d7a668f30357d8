"""Settings, commands and processes that a team adds at extension points."""

import os
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from harness import UV, add_lines, eventually, make_environment, name, render, run, succeed
from postgres import free_port

WORKER = """
import os, sys
import click

@click.command()
@click.argument("names", nargs=-1)
def work(names: tuple[str, ...]) -> None:
    print("working:", {name: os.environ.get(name) for name in names}, flush=True)
    for line in open("control"):
        sys.exit(int(line))

@click.command()
def count() -> None:
    print(os.environ["CACHE_URL"])
"""
SERVER = """
from contextlib import contextmanager

@contextmanager
def development_cache():
    print("cache runs", flush=True)
    yield {"CACHE_URL": "cache://local"}
    print("cache ends", flush=True)
"""
VARIABLES = ("CACHE_URL", "PAYMENT_KEY", "PAYMENT_URL", "PGHOST", "HTTPS_PROXY", "ENVIRONMENT")


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A project with a worker, its server and settings. Writing to `control` stops the worker."""
    project = render(template, tmp_path / "project", database="none")
    package = project / "src" / "my_service"
    (package / "worker.py").write_text(WORKER)
    add_lines(package / "cli.py", "imports", "from .worker import count, work")
    add_lines(package / "cli.py", "commands", "main.add_command(work)\nmain.add_command(count)")
    (project / "dev" / "cache.py").write_text(SERVER)
    add_lines(project / "dev" / "__main__.py", "imports", "from .cache import development_cache")
    add_lines(project / "dev" / "__main__.py", "servers", '"CACHE_URL": development_cache,')
    words = ", ".join(f'"{word}"' for word in ("work", *VARIABLES))
    add_lines(project / "dev" / "__main__.py", "processes", f"[SERVICE, {words}],")
    add_lines(
        project / ".env.development", "settings", "PAYMENT_KEY=key\nPAYMENT_URL=http://payments"
    )
    (project / ".env").write_text("PAYMENT_URL=http://mine\n")
    os.mkfifo(project / "control")
    succeed(project, UV, "sync")
    return project


@contextmanager
def developing(project: Path, *arguments: str) -> Generator[subprocess.Popen[str]]:
    port = free_port()
    environment = make_environment(PORT=str(port), PGHOST="db", HTTPS_PROXY="http://proxy")
    with subprocess.Popen(
        [UV, "run", "poe", "-q", "dev", *arguments],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        url = f"http://127.0.0.1:{port}/health/live"
        assert eventually(lambda: is_up(url)), process.communicate()
        yield process
    assert not is_up(url)


def is_up(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


def find_processes(project: Path, command: str) -> list[int]:
    """Find processes that run in the folder of a project."""
    processes: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_text().replace("\0", " ").strip()
            if (process / "cwd").readlink() == project and words.endswith(command):
                processes.append(int(process.name))
    return processes


def test_processes_run_next_to_the_service_with_the_same_settings(project: Path) -> None:
    with developing(project) as process:
        assert succeed(project, UV, "run", "poe", "-q", "dev", "my-service", "count") == (
            "cache runs\ncache://local\ncache ends\n"
        )
        assert process.stdout
        # Without the log of the service.
        lines = (line for line in process.stdout if line.startswith(("cache", "working")))
        output = next(lines) + next(lines)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    working = {
        "CACHE_URL": "cache://local",
        "PAYMENT_KEY": "key",
        "PAYMENT_URL": "http://mine",
        "PGHOST": None,
        "HTTPS_PROXY": None,
        "ENVIRONMENT": "development",
    }
    assert output == f"cache runs\nworking: {working}\n"


def test_when_one_process_exits_all_stop(project: Path) -> None:
    with developing(project) as process:
        (project / "control").write_text("7\n")
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 7
    assert output.endswith("cache ends\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_development(project: Path, number: signal.Signals) -> None:
    with developing(project) as process:
        [main] = find_processes(project, "python -m dev")
        os.kill(main, number)
        process.communicate(timeout=30)
    assert eventually(lambda: find_processes(project, "") == [])


# Stands for the service. It exits with 0 although a signal arrives during the migration.
INTERRUPTED = """#!/bin/sh
trap "" TERM
echo "$1"
[ "$1" = serve ] || kill -{signal} $PPID
"""


@pytest.mark.parametrize(("number", "code"), [("INT", 130), ("TERM", 143)])
def test_a_signal_during_a_migration_prevents_the_start(
    template: Path, tmp_path: Path, number: str, code: int
) -> None:
    project = render(template, tmp_path / "project", database="asyncpg", auth="none")
    succeed(project, UV, "sync")
    (project / ".venv/bin/my-service").write_text(INTERRUPTED.format(signal=number))
    url = "postgresql://nobody@nowhere/nothing"
    development = run(project, UV, "run", "python", "-m", "dev", DATABASE_URL=url)
    assert (development.stdout, development.returncode) == ("migrate\n", code)


PAYMENTS = """
from pydantic import SecretStr

from .groups import CommaSeparated, Group


class PaymentSettings(Group):
    key: SecretStr
    regions: CommaSeparated = ("eu",)
    retries: int = 0
"""
EXAMPLE = """
PAYMENT_KEY=
PAYMENT_REGIONS=eu
PAYMENT_RETRIES=0
MAIL_SENDER=
SENTRY_DSN=
IS_DRY_RUN=false
"""
ORDERS = """
import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import APIKeyHeader
from fastapi.sse import EventSourceResponse

from .auth.dependencies import CurrentPrincipal, OptionalPrincipal
from .auth.principal import Principal, PrincipalId
from .routing import Router, public

router = Router(prefix="/orders", tags=["orders"])
ApiKey = Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]
ID = PrincipalId("0" * 32)


async def get_client(user: OptionalPrincipal, key: ApiKey) -> Principal:
    if user is None and key != "key":
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer, ApiKey"})
    return user or Principal(id=ID, roles=frozenset(), kind="machine")


@router.get("/news", response_class=EventSourceResponse)
@public
async def stream_news() -> AsyncGenerator[str]:
    while True:
        yield "news"
        await asyncio.sleep(1)


@router.get("/{number:int}")
async def get_order(number: int, principal: CurrentPrincipal) -> list[str]:
    return [f"{principal.id} ordered {number}."]


@router.post("")
async def create_order(client: Annotated[Principal, Depends(get_client)]) -> str:
    return client.kind
"""
ORDERS_TEST = """
from httpx2 import AsyncClient


async def test_orders(client: AsyncClient, anonymous: AsyncClient) -> None:
    machine = await anonymous.post("/v1/orders", headers={"X-API-Key": "key"})
    assert machine.json() == "machine"
    assert (await client.post("/v1/orders")).json() == "user"
    assert (await anonymous.post("/v1/orders")).status_code == 401
"""
ROWS = (
    {"database": "asyncpg", "auth": "password"},
    {"database": "none", "auth": "oidc"},
)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_additions_of_a_team_pass_the_tests(
    template: Path, tmp_path: Path, row: dict[str, str]
) -> None:
    project = render(template, tmp_path / "project", **row)
    package = project / "src" / "my_service"
    settings = package / "settings.py"
    (package / "payments.py").write_text(PAYMENTS.lstrip())
    add_lines(settings, "imports", "from .payments import PaymentSettings")
    fields = 'payment: PaymentSettings\nmail: MailSettings\nsentry_dsn: str = ""\n'
    add_lines(settings, "groups", fields + "is_dry_run: bool = False", which=1)
    add_lines(settings, "groups", "class MailSettings(Group):\n    sender: str | None = None")
    add_lines(project / ".env.example", "settings", EXAMPLE)
    (package / "orders.py").write_text(ORDERS.lstrip())
    (project / "tests" / "test_orders.py").write_text(ORDERS_TEST.lstrip())
    add_lines(package / "app.py", "imports", "from .orders import router as orders")
    add_lines(package / "app.py", "routers", 'app.include_router(orders, prefix="/v1")')
    refused = run(project, UV, "run", "poe", "test")
    assert "The tests read .env.development. These settings are missing" in refused.stdout
    assert "  PAYMENT_KEY: Field required" in refused.stdout
    add_lines(project / ".env.development", "settings", "PAYMENT_KEY=key")
    add_lines(project / "pyproject.toml", "dependencies", '"pytest-asyncio>=1.4",', which=1)
    succeed(project, UV, "run", "poe", "check")
    shell = {
        "LOG": "/var/log",
        "LOG_LEVEL": "chatty",
        "AUTH_SIGN_UP": "closed",
        "HTTP_MAX_BODY_SIZE": "1",
        "PAYMENT_KEY": "",
        "DATABASE_READER_URL": "postgresql://nowhere.invalid/app",
        "WEB_CONCURRENCY": "auto",
        "PGSSLMODE": "require",
        "PGTARGETSESSIONATTRS": "standby",
        "ALL_PROXY": "socks5://127.0.0.1:1",
    }
    succeed(project, UV, "run", "poe", "test", **shell)


def test_settings_in_another_encoding_are_reported(template: Path, tmp_path: Path) -> None:
    project = render(template, tmp_path / "project", database="none")
    for file, task in {
        ".env": ["dev", "my-service", "serve"],
        ".env.development": ["test"],
    }.items():
        (project / file).write_bytes("NAME=Café\n".encode("latin-1"))
        done = run(project, UV, "run", "poe", *task)
        assert done.returncode == 1
        assert f"{file}" in done.stdout
        assert "not in UTF-8: 'utf-8' codec can't decode byte 0xe9" in done.stdout
        assert "Traceback" not in done.stdout
        (project / file).unlink()


def test_tasks_run_with_a_safe_path(template: Path, tmp_path: Path) -> None:
    project = render(template, tmp_path / "project", database="none")
    command = (UV, "run", "poe", "-q", "dev", "my-service", "--help")
    assert "Usage: my-service" in succeed(project, *command, PYTHONSAFEPATH="1")
