"""Rendered projects in use: checks, tests and servers, run as a team runs them."""

import inspect
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import tomllib
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import cycle
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx2
import psycopg
import pytest
import yaml
from harness import (
    CHOICES,
    CONFIG,
    EXTENDED,
    NAMES,
    ROWS,
    TESTED,
    UV,
    add_code,
    check_and_test,
    choose_rows,
    commit,
    eventually,
    find_questions,
    git,
    list_code,
    make_environment,
    name,
    protect,
    read_section,
    render,
    run,
    run_tests,
    succeed,
)
from postgres import free_port, make_grants, running


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, which must be empty after the test."""
    # Not in pytest's private folder: as root, PostgreSQL runs as another user.
    folder = Path(mkdtemp(dir="/tmp"))
    folder.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert eventually(lambda: list(folder.glob("postgres*")) == [])
    shutil.rmtree(folder)


def add_code_of_docs(project: Path) -> None:
    """Add the code blocks of the docs as modules, so that `poe check` checks them.

    A block without a path becomes a module of a feature `shown`. Tests in the docs are not run
    here, because they need the rest of their feature.
    """
    [package] = (project / "src").iterdir()
    pages = "".join(page.read_text() for page in sorted((project / "docs").glob("*.md")))
    blocks = list_code(pages)
    assert blocks
    for number, (path, block) in enumerate(blocks):
        if not path.startswith(("src/", "tests/")):
            path = f"src/{package.name}/shown/block_{number}.py"
        add_code(project, path.replace("tests/test_", "tests/shown_"), block)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_checks_pass(template: Path, tmp_path: Path, row: dict[str, str]) -> None:
    project = render(template, tmp_path / "a project", **row)
    add_code_of_docs(project)
    succeed(project, UV, "run", "-q", "poe", "check")


# With names of different lengths.
NEW = [row for row in TESTED if row not in EXTENDED]
NAMED = [row | names for row, names in zip(NEW, cycle(NAMES.values()))]


@pytest.mark.parametrize("row", NAMED, ids=name)
def test_tests_pass(template: Path, tmp_path: Path, temporary: Path, row: dict[str, str]) -> None:
    run_tests(render(template, tmp_path / "a project", **row))


LOCKED = choose_rows(*find_questions("pyproject.toml"), strength=1)


@pytest.mark.parametrize("row", LOCKED, ids=name)
def test_ci_passes_with_the_oldest_dependencies(
    template: Path, tmp_path: Path, temporary: Path, row: dict[str, str]
) -> None:
    """Run the steps of the scheduled workflow, with a server in DATABASE_URL."""
    project = render(template, tmp_path / "project", **row | {"ci": "github"})
    succeed(project, UV, "lock")
    workflow = yaml.safe_load((project / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["test"]
    assert ("DATABASE_URL" in job["env"]) == (row["database"] != "none")
    with running() if "DATABASE_URL" in job["env"] else nullcontext("") as url:
        objects = url and list_objects(url)
        # An address that is not recognized as local, as in CI.
        other_name = url.replace("127.0.0.1", "127.1")
        variables = {"DATABASE_URL": other_name, "UV_RESOLUTION": "lowest-direct"}
        output = "".join(
            succeed(project, "sh", "-c", step["run"], **variables)
            for step in job["steps"]
            if "run" in step
        )
        assert re.search(r"^=+ \d+ passed in", output, re.MULTILINE), output
        assert objects == (url and list_objects(url))
    requirements = tomllib.loads((project / "pyproject.toml").read_text())["project"][
        "dependencies"
    ]
    packages = tomllib.loads((project / "uv.lock").read_text())["package"]
    versions = {package["name"]: package["version"] for package in packages}
    for dependency in requirements:
        distribution, floor = re.findall(r"^([\w-]+).*?>=([\w.]+)", dependency)[0]
        assert f"{versions[distribution]}.".startswith(f"{floor}."), dependency


def test_a_commit_is_checked(template: Path, tmp_path: Path) -> None:
    project = render(template, tmp_path / "project", database="none")
    git(project, "init")
    succeed(project, UV, "run", "prek", "install")
    commit(project, "Start from the template")
    for path, old, new, problem in (
        ("tests/test_items.py", "import pytest", "import  pytest", "1 file would be reformatted"),
        ("pyproject.toml", '"click>=8.5"', '"click>=8.5.1"', "The lockfile at `uv.lock` needs"),
    ):
        text = (project / path).read_text()
        (project / path).write_text(text.replace(old, new, 1))
        with pytest.raises(subprocess.CalledProcessError) as refusal:
            commit(project, "A mistake")
        assert problem in refusal.value.stderr
        (project / path).write_text(text)


def follow_the_readme(project: Path) -> None:
    """Remove the example exactly as docs/development.md says."""
    section = read_section(project, "Remove the example")
    commands = re.findall(r"^    (.+)$", section, re.MULTILINE)
    assert commands
    for command in commands:
        succeed(project, "sh", "-c", command)
    edit = re.search(r"delete the two lines that contain `(\w+)` from `(\S+)`", section)
    assert edit
    path = project / edit[2]
    lines = path.read_text().splitlines(keepends=True)
    rest = [line for line in lines if edit[1] not in line]
    assert len(lines) - len(rest) == 2
    path.write_text("".join(rest))


# The answers that change the example.
EXAMPLE = find_questions("src/*/items/*", "tests/test_item*")
# A suite takes minutes, so each of these rows is tested without the example or with another one.
EXAMPLES = choose_rows(*EXAMPLE, strength=1)
WITHOUT_EXAMPLE, WITH_BOOKS = EXAMPLES[:-1], EXAMPLES[1:]


def render_without_example(template: Path, project: Path, row: dict[str, str]) -> Path:
    render(template, project, **row)
    follow_the_readme(project)
    assert "item" not in "".join(
        path.name for path in project.rglob("*") if not {".venv", "__pycache__"} & {*path.parts}
    )
    return project


@pytest.mark.parametrize("row", choose_rows(*EXAMPLE), ids=name)
def test_the_example_can_be_removed(template: Path, tmp_path: Path, row: dict[str, str]) -> None:
    project = render_without_example(template, tmp_path / "project", row)
    succeed(project, UV, "run", "-q", "poe", "check")


@pytest.mark.parametrize("row", WITHOUT_EXAMPLE, ids=name)
def test_tests_pass_without_the_example(
    template: Path, tmp_path: Path, temporary: Path, row: dict[str, str]
) -> None:
    run_tests(render_without_example(template, tmp_path / "project", row))


PATH_OF_BOOKS = """

@pytest.fixture
def items(items: str) -> str:
    return items.replace("items", "books")
"""


@pytest.mark.parametrize("row", WITH_BOOKS, ids=name)
def test_a_feature_can_be_added(
    template: Path, tmp_path: Path, temporary: Path, row: dict[str, str]
) -> None:
    project = render(template, tmp_path / "project", **row)
    section = read_section(project, "Add a feature")
    package = project / "src" / "my_service"
    shutil.copytree(package / "items", package / "books")
    for file in (package / "books").glob("*.py"):
        text = file.read_text().replace("Item", "Book")
        file.write_text(re.sub(r"(?<!\.)item", "book", text))  # except the method `.items()`
    app = package / "app.py"
    lines = app.read_text().splitlines(keepends=True)
    for line in [line for line in lines if "items" in line]:
        lines.insert(lines.index(line) + 1, line.replace("items", "books"))
    app.write_text("".join(lines))
    tests = (project / "tests" / "test_items.py").read_text()
    (project / "tests" / "test_books.py").write_text(tests + PATH_OF_BOOKS)
    for command in re.findall(r"`(uv run poe migration .+?)`", section):
        succeed(project, "sh", "-c", command)
    if row["organizations"] != "none":
        [path] = (project / "migrations" / "versions").glob("*app_*.py")
        protect(path, "books")
    succeed(project, UV, "run", "poe", "format")
    assert ("poe migration" in section) == (row["database"] != "none")
    check_and_test(project)


LIST_NAMES = """
import sys
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
print(*(distribution.name for distribution in distributions()))
print(*packages_distributions())
print(*(path.name for path in Path(sys.executable).parent.iterdir()))
"""


INSTALLED = choose_rows(*find_questions("pyproject.toml"), strength=1)


@pytest.mark.parametrize("row", INSTALLED, ids=name)
def test_names_of_installed_packages_are_reserved(
    template: Path, tmp_path: Path, row: dict[str, str]
) -> None:
    project = render(template, tmp_path / "project", **row)
    names = succeed(project, UV, "run", "--quiet", "python", "-c", LIST_NAMES).lower().split()
    package_names = {name.replace("-", "_") for name in names if re.fullmatch(r"[a-z][\w-]*", name)}
    reserved_names = yaml.safe_load(CONFIG["project_names"]["default"])
    assert {"fastapi", "typing_extensions", "pytest", "poe"} <= package_names
    assert package_names - {"my_service"} <= set(reserved_names)
    folders = {path.name for path in project.iterdir() if path.is_dir()}
    assert {folder for folder in folders if folder.isidentifier()} <= set(reserved_names)


def find_processes(folder: Path) -> dict[int, str]:
    """Find processes that run in a folder, or whose command names it."""
    commands: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_text().replace("\0", " ")
            if str(folder) in command or (process / "cwd").readlink().is_relative_to(folder):
                commands[int(process.name)] = command
    return commands


@contextmanager
def developing(project: Path, **variables: str) -> Generator[httpx2.Client]:
    """Run `poe dev`, then stop it with Ctrl-C, which must stop all its processes."""
    port = free_port()
    environment = make_environment(PORT=str(port), **variables)
    with subprocess.Popen(
        [UV, "run", "poe", "dev"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
                wait_until_ready(client, process)
                yield client
        finally:
            os.killpg(process.pid, signal.SIGINT)
            output, _ = process.communicate(timeout=30)
    assert f"http://127.0.0.1:{port}/docs" in output
    assert "Traceback" not in output
    assert eventually(lambda: find_processes(project) == {})


def wait_until_ready(client: httpx2.Client, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx2.TransportError):
            if client.get("/health/ready").status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError("`poe dev` does not respond.")


def read_title(client: httpx2.Client) -> str:
    try:
        return client.get("/openapi.json").json()["info"]["title"]
    except httpx2.TransportError:  # between two server processes
        return ""


CREDENTIALS = {"email": "ada@example.com", "password": "correct horse battery"}


def log_in(client: httpx2.Client) -> None:
    form = {
        "grant_type": "password",
        "username": CREDENTIALS["email"],
        "password": CREDENTIALS["password"],
    }
    token = client.post("/v1/auth/token", data=form).json()["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"


# Prints the role of this script, and the roles of the service.
LIST_ROLES = """
import asyncio, asyncpg, os

async def main():
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    sessions = "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'my_service'"
    roles = [record[0] for record in await connection.fetch(sessions)]
    print(await connection.fetchval("SELECT current_user"), *roles)

asyncio.run(main())
"""


def test_a_newcomer_signs_up_and_stores_items(
    template: Path, tmp_path: Path, temporary: Path
) -> None:
    project = render(template, tmp_path / "my project", auth="password")
    with developing(project) as client:
        assert client.get("/docs").status_code == 200
        assert client.post("/v1/auth/users", json=CREDENTIALS).status_code == 201
        log_in(client)
        assert client.post("/v1/items", json={"name": "Lamp"}).status_code == 201
        command = [UV, "run", "poe", "-q", "dev", "my-service", "create-admin", "grace@example.com"]
        admin = subprocess.run(
            command,
            cwd=project,
            env=make_environment(),
            input="correct horse battery",
            capture_output=True,
            text=True,
            check=True,
        )
        assert admin.stdout == "grace@example.com is an administrator.\n"
        command = [UV, "run", "poe", "-q", "dev", "python", "-c", LIST_ROLES]
        assert succeed(project, *command).endswith("\nowner app\n")
        app = project / "src" / "my_service" / "app.py"
        app.write_text(app.read_text().replace('title="My Service"', 'title="Ours"'))
        assert eventually(lambda: read_title(client) == "Ours")
    with developing(project) as client:
        log_in(client)
        assert [item["name"] for item in client.get("/v1/items").json()["items"]] == ["Lamp"]


@pytest.mark.parametrize("database", CHOICES["database"])
def test_a_newcomer_gets_a_token_and_stores_items(
    template: Path, tmp_path: Path, temporary: Path, database: str
) -> None:
    project = render(template, tmp_path / "my project", database=database, auth="oidc")
    # Settings for another provider, which must not affect `poe dev`.
    (project / ".env").write_text("AUTH_TOKEN_TYPES=JWT\nAUTH_MAX_TOKEN_LIFETIME=60\n")
    with developing(project) as client:
        document = client.get("/openapi.json").json()
        [scheme] = document["components"]["securitySchemes"].values()
        provider = httpx2.get(scheme["openIdConnectUrl"]).json()
        assert httpx2.URL(provider["issuer"]).host == "127.0.0.1"
        assert '"clientId": "docs"' in client.get("/docs").text
        assert client.get("/v1/items").status_code == 401
        form = {"grant_type": "client_credentials", "client_id": "ada", "scope": "x"}
        token = httpx2.post(provider["token_endpoint"], data=form).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        assert client.get("/v1/auth/me").json()["scopes"] == ["x"]
        assert client.post("/v1/items", json={"name": "Lamp"}).status_code == 201
        assert [item["name"] for item in client.get("/v1/items").json()["items"]] == ["Lamp"]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(provider["issuer"])
    (project / ".env").write_text("AUTH_ISSUER=id.example.com\n")
    output = fail(project, UV, "run", "poe", "dev")
    assert "AUTH_ISSUER: should be https://id.example.com/" in output
    assert "AUTH_AUDIENCE: Field required" in output


@pytest.mark.parametrize("victim", ["poe", "dev"])
def test_no_process_outlives_a_killed_development(
    template: Path, tmp_path: Path, temporary: Path, victim: str
) -> None:
    project = render(template, tmp_path / "project", auth="none")
    environment = make_environment(PORT=str(free_port()))
    with subprocess.Popen([UV, "run", "poe", "dev"], cwd=project, env=environment) as process:
        url = f"http://127.0.0.1:{environment['PORT']}"
        with httpx2.Client(base_url=url) as client:
            wait_until_ready(client, process)
        pattern = {"poe": "bin/poe dev", "dev": "python -m dev"}[victim]
        for number, command in find_processes(project).items():
            if command.strip().endswith(pattern) and "uv run" not in command:
                os.kill(number, signal.SIGKILL)
        process.wait(30)
    assert eventually(lambda: find_processes(project) == {})


def test_a_service_without_a_database_runs_in_development(template: Path, tmp_path: Path) -> None:
    project = render(template, tmp_path / "project", database="none")
    (project / ".env").write_text("HTTP_MAX_BODY_SIZE=50\nPORT=1\nENVIRONMENT=production\n")
    with developing(project) as client:
        assert client.get("/docs").status_code == 200
        assert client.post("/v1/items", json={"name": "x" * 50}).status_code == 413
        assert client.post("/v1/items", json={"name": "Lamp"}).status_code == 201
        assert [item["name"] for item in client.get("/v1/items").json()["items"]] == ["Lamp"]
    assert not (project / ".local").exists()


INTERRUPTED = """
import signal
import my_service.cli

def test_signal(database_url):
    signal.raise_signal(signal.SIGTERM)
"""


def list_objects(url: str) -> list[tuple[str, ...]]:
    """List the roles, databases, tables and privileges of a server."""
    query = """
        SELECT rolname FROM pg_roles UNION ALL SELECT datname FROM pg_database
        UNION ALL SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT nspacl::text FROM pg_namespace ORDER BY 1
    """
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def test_database_url_replaces_the_temporary_server(
    template: Path, tmp_path: Path, temporary: Path
) -> None:
    project = render(template, tmp_path / "project", auth="none")
    launcher = project / "dev" / "postgres.py"
    launcher.write_text(
        "class PostgresError(Exception): ...\n\n"
        "def running(*arguments): raise AssertionError('a server of its own')\n\n"
        "development_database = running\n\n" + inspect.getsource(make_grants)
    )
    with running() as url:
        other_name = url.replace("127.0.0.1", "127.1")
        objects = list_objects(url)
        # `test_ci_passes_with_the_oldest_dependencies` runs all tests with such an address.
        tests = ("tests/test_items.py", "tests/test_migrations.py")
        output = succeed(project, UV, "run", "poe", "test", *tests, DATABASE_URL=other_name)
        assert re.search(r"^=+ \d+ passed in", output, re.MULTILINE), output
        assert list_objects(url) == objects
        (project / "tests" / "test_signal.py").write_text(INTERRUPTED)
        interruption = run(project, UV, "run", "poe", "test", "-k", "signal", DATABASE_URL=url)
        assert "KeyboardInterrupt" in interruption.stdout
        assert list_objects(url) == objects
        (project / "tests" / "test_signal.py").unlink()
        (project / ".env").write_text("DATABASE_URL=postgresql://127.0.0.1:1/other\nPORT=1\n")
        with developing(project, DATABASE_URL=url) as client:
            assert client.post("/v1/items", json={"name": "Lamp"}).status_code == 201
        command = [UV, "run", "poe", "-q", "dev", "sh", "-c", "echo $DATABASE_URL"]
        app = "postgresql://app@127.0.0.1:1/app_test"
        output = succeed(project, *command, DATABASE_URL=app, DATABASE_OWNER_URL=url)
        assert output.endswith(f"{url}\n")
        other = url.replace("app_test", "postgres")
        refusal = run(project, UV, "run", "poe", "test", DATABASE_URL=other)
        assert refusal.returncode != 0
        assert "its name does not end in _test" in refusal.stdout
        # A role that cannot create another one.
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE ROLE ada LOGIN CREATEDB PASSWORD 'hunter2'")
        objects = list_objects(url)
        role_url = re.sub("//.+@", "//ada:hunter2@", url)
        output = succeed(
            project, UV, "run", "poe", "test", "-k", "role or item", DATABASE_URL=role_url
        )
        assert "The role in DATABASE_URL cannot create another role." in output
        assert list_objects(url) == objects
    assert not (project / ".local").exists()


VACUUMED = """
from my_service.database_settings import parse_database_url

from .conftest import execute

FILL = (
    "CREATE TABLE garbage (value int) WITH (autovacuum_vacuum_threshold = 1, "
    "autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_cost_delay = 100)",
    "INSERT INTO garbage SELECT generate_series(1, 400000)",
    "DELETE FROM garbage WHERE value % 2 = 0",
)
WAIT = '''DO $$ BEGIN
    WHILE NOT EXISTS (
        SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND usesysid IS NULL -- autovacuum has no role
    ) LOOP
        PERFORM pg_sleep(0.05), pg_stat_clear_snapshot();
    END LOOP;
END $$'''


async def test_garbage(scratch_url: str) -> None:
    url = parse_database_url(scratch_url)
    await execute(url, *FILL)  # a connection that ends, since it reports its garbage then
    await execute(url, "SET statement_timeout = '60s'", WAIT)
"""


def test_databases_are_dropped_while_they_are_vacuumed(
    template: Path, tmp_path: Path, temporary: Path
) -> None:
    project = render(template, tmp_path / "project", auth="none")
    (project / "tests" / "test_vacuum.py").write_text(VACUUMED)
    with running() as url:
        [pid] = temporary.rglob("postmaster.pid")
        with (pid.parent / "postgresql.auto.conf").open("a") as configuration:
            configuration.write("autovacuum_naptime = '1s'\n")
        os.kill(int(pid.read_text().split()[0]), signal.SIGHUP)
        output = succeed(
            project, UV, "run", "poe", "test", "tests/test_vacuum.py", DATABASE_URL=url
        )
    assert "1 passed in" in output


def fail(project: Path, *command: str, **variables: str) -> str:
    done = run(project, *command, **variables)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


def test_problems_of_development_are_reported(
    template: Path, tmp_path: Path, temporary: Path
) -> None:
    project = render(template, tmp_path / "project")
    dev = (UV, "run", "poe", "dev")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        output = fail(project, *dev, PORT=port)
    assert f"Cannot listen on 127.0.0.1:{port}" in output
    assert "Choose another --port, or PORT." in output
    assert find_processes(project) == {}

    unreachable = "postgresql://ada:hunter2@127.0.0.1:1/away"
    output = fail(project, *dev, DATABASE_URL=unreachable)
    assert "Cannot connect to postgresql+asyncpg://ada:***@127.0.0.1:1/away" in output

    output = fail(project, *dev, DATABASE_URL="mysql://ada:hunter2@127.0.0.1/orders")
    assert "DATABASE_URL: " in output
    assert "hunter2" not in output

    output = fail(project, UV, "run", "poe", "test", DATABASE_URL=unreachable + "_test")
    assert "The tests have no database: " in output
    assert "Connect call failed" in output

    output = fail(project, *dev, "nonsense")
    assert "There is no command nonsense. Try" in output

    shutil.rmtree(project / ".local")
    (project / ".local").touch()
    output = fail(project, *dev)
    assert "PostgreSQL cannot use" in output


def test_uv_reports_a_missing_network(template: Path, tmp_path: Path) -> None:
    project = render(template, tmp_path / "project", database="none")
    done = run(project, UV, "run", "--offline", "poe", "dev", UV_CACHE_DIR=str(tmp_path / "empty"))
    assert done.returncode != 0
    assert "network was disabled" in done.stdout
