"""Clients that are generated from the OpenAPI document, in Python and in TypeScript."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex, token_urlsafe
from tempfile import TemporaryDirectory

import pytest
from breakable import COMMAND, Postgres, Service, opening_postgres
from harness import UV, eventually, make_environment, render, run, succeed

SOURCES = Path(__file__).with_name("clients")
TOOLS = Path(sys.executable).parent
SHAPES = {
    "password": {"auth": "password"},
    "oidc": {"auth": "oidc"},
    "none": {"auth": "none", "database": "none"},
}
# They share rendered projects and installed packages.
pytestmark = pytest.mark.xdist_group("clients")


@pytest.fixture(scope="session")
def projects(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project of each shape, with its OpenAPI document in openapi.json."""
    folder = tmp_path_factory.mktemp("clients")
    projects = {
        shape: render(template, folder / shape, **answers) for shape, answers in SHAPES.items()
    }
    for project in projects.values():
        document = succeed(project, UV, "run", "-q", "--no-dev", COMMAND, "openapi")
        (project / "openapi.json").write_text(document)
    return projects


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def project(projects: dict[str, Path], shape: str) -> Path:
    return projects[shape]


def generate_client(project: Path, folder: Path) -> Path:
    """Generate the Python client without warnings. A warning means a missing operation."""
    package = folder / "my_service_client"
    command = [str(TOOLS / "openapi-python-client"), "generate", "--meta=none", "--fail-on-warning"]
    command += [f"--path={project / 'openapi.json'}", f"--output-path={package}"]
    succeed(folder, *command, PATH=f"{TOOLS}:{os.environ['PATH']}")  # it runs Ruff
    return package


def test_a_python_client_has_every_operation(project: Path, tmp_path: Path) -> None:
    package = generate_client(project, tmp_path)
    functions = {path.stem for path in package.glob("api/*/*.py")} - {"__init__"}
    document = json.loads((project / "openapi.json").read_text())
    assert functions == {
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    }


@pytest.fixture
def consumer(projects: dict[str, Path], tmp_path: Path) -> Path:
    """A module that uses the client of the service with accounts."""
    generate_client(projects["password"], tmp_path)
    # Its own configuration: pytest would take one of a parent folder.
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return Path(shutil.copy(SOURCES / "consumer.py", tmp_path))


def test_the_python_client_passes_the_type_checker(consumer: Path) -> None:
    command = [str(TOOLS / "pyrefly"), "check", "--preset=strict"]
    command += [f"--python-interpreter-path={sys.executable}", f"--search-path={consumer.parent}"]
    succeed(consumer.parent, *command, str(consumer))


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with opening_postgres() as postgres:
        yield postgres


def test_the_python_client_works(
    projects: dict[str, Path], postgres: Postgres, consumer: Path
) -> None:
    project = projects["password"]
    variables = {"DATABASE_URL": postgres.url, "AUTH_SECRET": token_hex(32)}
    email, password = "ada@example.com", token_urlsafe(16)
    command = str(project / ".venv" / "bin" / COMMAND)
    succeed(project, command, "migrate", **variables)
    subprocess.run(
        [command, "create-admin", email],
        cwd=project,
        env=make_environment(**variables),
        input=password,
        capture_output=True,
        text=True,
        check=True,
    )
    with ExitStack() as stack:
        service = Service(project, variables, "--drain=0")
        stack.callback(service.check_log)
        stack.callback(service.stop)
        assert eventually(service.answers), service.log
        account = {"ADMIN_EMAIL": email, "ADMIN_PASSWORD": password}
        tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", consumer.name]
        succeed(consumer.parent, *tests, SERVICE_URL=service.url, **account)


@pytest.fixture(scope="session")
def node() -> Iterator[Path]:
    """A folder with the npm packages and the TypeScript sources."""
    if not shutil.which("npm"):
        pytest.skip("Node.js with npm is not installed")
    with TemporaryDirectory(prefix="clients-") as name:
        folder = Path(shutil.copytree(SOURCES, name, dirs_exist_ok=True))
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        succeed(folder, "npm", "ci", *options)
        yield folder


def test_the_document_passes_the_linter(projects: dict[str, Path], node: Path) -> None:
    documents = [str(project / "openapi.json") for project in projects.values()]
    variables = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    succeed(node, "node_modules/.bin/redocly", "lint", *documents, **variables)


def test_the_typescript_client_compiles(project: Path, shape: str, node: Path) -> None:
    """Lines that end in the number of an error have this error. Other lines have none."""
    sources = ["items.ts"]
    if shape == "password":
        sources += ["accounts.ts", "mistakes.ts"]
    config = json.loads((SOURCES / "tsconfig.json").read_text()) | {"files": sources}
    (node / "tsconfig.json").write_text(json.dumps(config))
    document = str(project / "openapi.json")
    succeed(node, "node_modules/.bin/openapi-typescript", document, "--output=openapi.ts")
    output = run(node, "node_modules/.bin/tsc", "--pretty", "false").stdout
    errors = re.findall(r"^(.+)\((\d+),\d+\): error (TS\d+)", output, re.MULTILINE)
    assert errors == [
        (source, str(number), line.rpartition("// ")[2])
        for source in sources
        for number, line in enumerate((SOURCES / source).read_text().splitlines(), 1)
        if re.search(r"// TS\d+$", line)
    ], output
