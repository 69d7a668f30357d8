"""The image of a project, built and run in folders as Dockerfile and compose.yaml say."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import IO, Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
import yaml
from breakable import Postgres
from harness import (
    UV,
    choose_rows,
    eventually,
    find_questions,
    group,
    make_environment,
    name,
    read,
    render,
    succeed,
)
from postgres import HOST, free_port

SECRETS = {
    "APP_PASSWORD": token_hex(16),
    "AUTH_AUDIENCE": "my-service",
    "AUTH_ISSUER": "https://id.example.com",
    "MAIL_LINK_URL": "https://app.example.com",
    "AUTH_SECRET": token_hex(32),
    "CACHE_PASSWORD": token_hex(16),
    "MAIL_SENDER": "Orders <no-reply@example.com>",
    "MAIL_URL": f"smtps://orders:{token_hex(16)}@mail.example.com",
    "NATS_PASSWORD": token_hex(16),
    "OWNER_PASSWORD": token_hex(16),
    "POSTGRES_PASSWORD": token_hex(16),
}


class Image:
    """Runs a Dockerfile in a folder.

    The paths of the image are below `root`, except those of the base image: its Python is the one
    of this machine.
    """

    def __init__(self, project: Path, folder: Path, python: Path) -> None:
        self.project = project
        self.folder = folder
        self.root = folder / "root"
        self.python = python
        self.stages: dict[str, Path] = {}
        self.environment: dict[str, str] = {}
        self.place = Path("/")
        self.user = "0:0"
        self.command: list[str] = []
        self.health = ""
        self.labels: dict[str, str] = {}
        text = (project / "Dockerfile").read_text().replace("\\\n", "")
        for line in re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).splitlines():
            if line:
                self.follow(*line.split(maxsplit=1))

    def follow(self, instruction: str, arguments: str) -> None:
        match instruction:
            case "FROM":
                self.begin(*arguments.split(" AS ")[1:])
            case "COPY":
                self.copy(*arguments.split())
            case "ENV":
                for pair in shlex.split(arguments):
                    key, value = pair.split("=")
                    value = value.replace("$PATH", self.environment["PATH"])
                    self.environment[key] = value.replace("/app/", f"{self.root}/app/")
            case "WORKDIR":
                self.place = self.locate(arguments)
                self.place.mkdir()
            case "RUN":
                command = re.sub(r"--mount=\S+ ", "", arguments)
                # HOME has uv's cache.
                variables = self.environment | {"HOME": str(Path.home())}
                environment = make_environment(**variables, UV_PYTHON=str(self.python))
                subprocess.run(command, shell=True, cwd=self.place, env=environment, check=True)  # noqa: S602
            case "USER":
                self.user = arguments
            case "HEALTHCHECK":
                self.health = arguments.split(" CMD ")[1]
            case "CMD":
                self.command = json.loads(arguments)
            case "LABEL":
                key, value = arguments.split("=", maxsplit=1)
                self.labels[key] = re.sub(r"\\(.)", r"\1", value.strip('"'))
            case "EXPOSE":
                assert arguments == self.environment["PORT"]
            case _:
                raise NotImplementedError(instruction)

    def begin(self, stage: str = "") -> None:
        """Begin a stage. Its root has the path of the previous root, which is moved away."""
        for previous, root in self.stages.items():
            if root == self.root:
                self.stages[previous] = root.rename(self.folder / previous)
        self.root.mkdir()
        if stage:
            self.stages[stage] = self.root
        self.environment = {
            "HOME": "/",
            "LD_LIBRARY_PATH": str(self.python.parents[1] / "lib"),
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
        }

    def locate(self, path: str) -> Path:
        return self.root / path.lstrip("/") if path.startswith("/") else self.place / path

    def copy(self, *arguments: str) -> None:
        stage = arguments[0].removeprefix("--from=") if "--from=" in arguments[0] else ""
        *sources, target = arguments[bool(stage) :]
        for source in sources:
            if stage in self.stages:
                path = self.stages[stage] / source.lstrip("/")
            else:
                path = Path(UV) if "/uv:" in stage else self.project / source
                assert stage or self.is_sent(source), f"{source} is in .dockerignore"
            place = self.locate(target)
            if target.endswith("/"):
                place.mkdir(exist_ok=True)
            if path.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, place, symlinks=True, ignore=None if stage else ignore)
            else:
                shutil.copy(path, place)

    def is_sent(self, path: str) -> bool:
        """Whether .dockerignore includes a path: the last matching pattern decides."""
        is_included = True
        for pattern in (self.project / ".dockerignore").read_text().splitlines():
            if not pattern.startswith("#") and fnmatch(path, pattern.removeprefix("!")):
                is_included = pattern.startswith("!")
        return is_included

    @contextmanager
    def running(
        self, *command: str, **variables: str
    ) -> Generator[tuple[subprocess.Popen[str], IO[str]]]:
        """Run a command as the image's user, with the limits of compose.yaml.

        It has no capabilities and cannot write to files.
        """
        flags = ["prlimit", "--fsize=0", "setpriv", "--no-new-privs"]
        if os.geteuid() == 0:
            user, group = self.user.split(":")
            flags += [f"--reuid={user}", f"--regid={group}", "--clear-groups"]
            flags += ["--bounding-set=-all", "--inh-caps=-all"]
        with subprocess.Popen(
            [*flags, *command],
            cwd=self.place,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout
            try:
                yield process, process.stdout
            finally:
                process.kill()

    def run(self, *command: str, **variables: str) -> tuple[int, str]:
        with self.running(*command, **variables) as (process, output):
            text = output.read()
            return process.wait(), text

    def is_healthy(self, **variables: str) -> bool:
        return self.run("sh", "-c", self.health, **variables)[0] == 0


class Cluster(Postgres):
    """A server as in the official image: a superuser with a password, an empty database."""

    @property
    def superuser(self) -> str:
        password = SECRETS["POSTGRES_PASSWORD"]
        return f"postgresql://postgres:{password}@{HOST}:{self.port}/app"

    def initialise(self, version: int, log: IO[bytes]) -> None:
        super().initialise(version, log)
        statements = [
            "DROP DATABASE app_test",
            "DROP ROLE owner",
            "CREATE DATABASE app",
            f"ALTER ROLE postgres PASSWORD '{SECRETS['POSTGRES_PASSWORD']}'",
        ]
        options = ["--single", "--exit_on_error=on", "postgres"]
        self.run(log, self.cluster, "postgres", *options, stdin="\n".join(statements))


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's private one."""
    folder = Path(mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def python(folder: Path) -> Path:
    """This Python, in a folder from which each user may run it."""
    prefix = Path(sys.base_prefix)
    if os.geteuid() != 0:
        return prefix / "bin" / "python3"
    patterns = ("test", "site-packages", "__pycache__", "config-*", "idlelib", "*.a")
    for part in ("bin", "lib"):
        ignore = shutil.ignore_patterns(*patterns)
        shutil.copytree(prefix / part, folder / "python" / part, symlinks=True, ignore=ignore)
    return folder / "python" / "bin" / f"python{sysconfig.get_python_version()}"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "postgres").mkdir()
    cluster = Cluster(tmp_path / "postgres")
    cluster.begin()
    yield cluster
    cluster.halt()
    cluster.remove_copy()


# The answers that change the image, or how it runs.
ROWS = choose_rows(*find_questions("src/*", "Dockerfile", ".dockerignore", "compose.yaml"))


@pytest.fixture(params=group(ROWS))
def row(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(request.param)


@pytest.fixture(scope="session")
def images() -> dict[str, Image]:
    """The images that this process has built. The tests of a row may run in any order."""
    return {}


@pytest.fixture
def image(
    row: dict[str, str], images: dict[str, Image], template: Path, folder: Path, python: Path
) -> Image:
    if name(row) not in images:
        place = folder / name(row)
        place.mkdir()
        project = render(template, place / "project", **row)
        succeed(project, UV, "lock")
        images[name(row)] = Image(project, place, python)
    return images[name(row)]


@pytest.fixture
def services(image: Image, cluster: Cluster) -> dict[str, Any]:
    """The services of compose.yaml, with the URL of the real database, which has the roles."""
    text = (image.project / "compose.yaml").read_text()
    text = re.sub(r"\$\{(\w+)[^}]*\}", lambda found: SECRETS[found[1]], text)
    text = text.replace("@database/", f"@{HOST}:{cluster.port}/")
    compose = yaml.safe_load(text.replace("@cache:", "@127.0.0.1:"))  # it works without the cache
    configs = compose.get("configs", {})
    if "roles" in configs:
        with psycopg.connect(cluster.superuser, autocommit=True) as connection:
            connection.execute(configs["roles"]["content"])
    own = compose["services"]["service"].setdefault("environment", {})
    own |= {"PORT": str(free_port()), "HTTP_ALLOWED_HOSTS": "orders.example.com"}
    for service in compose["services"].values():
        # Compose takes a variable without a value from the shell, which has none here.
        variables = service.get("environment", {})
        service["environment"] = {key: value for key, value in variables.items() if value}
    return dict(compose["services"])


def migrate(image: Image, services: dict[str, Any]) -> None:
    migration = services["migrate"]
    status, output = image.run(*migration["command"], **migration["environment"])
    assert status == 0, output


def test_the_image_has_only_what_it_needs(image: Image) -> None:
    assert list(image.root.rglob("fastapi"))
    assert not list(image.root.rglob("pytest")), "the image has development dependencies"
    assert not list(image.root.rglob("uv")), "the image has uv"


# The statuses without a token: readiness, a sign-up, a new item, the list of items. Then those with
# a token, if there are users: a new item, a new name for it, its deletion.
ANSWERS = {
    "none": [200, 404, 201, 200, 201, 200, 204],
    # There is no provider to fetch keys from.
    "oidc": [503, 404, 401, 401, 401, 401, 401],
    "password": [200, 201, 401, 401, 201, 200, 204],
}


def test_the_image_serves_as_compose_runs_it(
    image: Image, row: dict[str, str], services: dict[str, Any]
) -> None:
    before = read(image.root)
    variables = services["service"]["environment"]
    if "migrate" in services:
        migrate(image, services)
    account = {"email": "ada@example.com", "password": token_hex(16)}
    has_organizations = row.get("organizations", "none") != "none"
    items = f"/v1/organizations/{uuid4()}/items" if has_organizations else "/v1/items"
    with image.running(*image.command, **variables) as (process, output):
        assert eventually(lambda: image.is_healthy(**variables) or process.poll() is not None)
        base = f"http://127.0.0.1:{variables['PORT']}"
        with httpx2.Client(base_url=base, headers={"Host": "orders.example.com"}) as client:
            answers = [
                client.get("/health/ready"),
                client.post("/v1/auth/users", json=account),
                client.post(items, json={"name": "a"}),
                client.get(items),
            ]
            form = {"grant_type": "password", "username": account["email"]} | account
            token = client.post("/v1/auth/token", data=form).json().get("access_token")
            client.headers["Authorization"] = f"Bearer {token}"
            if has_organizations:
                organization = client.post("/v1/organizations", json={"name": "Acme"})
                items = f"{organization.headers.get('Location', '/v1/organizations/x')}/items"
            item = client.post(items, json={"name": "b"})
            place = f"{items}/{item.json().get('id')}"
            answers += [item, client.patch(place, json={"name": "c"}), client.delete(place)]
        process.send_signal(signal.SIGTERM)
        log = output.read()
        assert process.wait() == 0, log
    expected = ANSWERS[row["auth"]]
    if row["auth"] == "password" and row["mail"] != "none":
        expected = [200, 202, 401, 401, 401, 401, 401]  # nobody gets the link that adds the account
    assert [answer.status_code for answer in answers] == expected
    assert "Application shutdown complete" in log
    assert not image.is_healthy(**variables)
    assert read(image.root) == before, "the image has new files"


WITH_DATABASE = pytest.mark.parametrize(
    "row", group([row for row in ROWS if row["database"] != "none"]), indirect=True
)


@WITH_DATABASE
def test_the_service_waits_for_the_migration(image: Image, services: dict[str, Any]) -> None:
    status, output = image.run(*image.command, **services["service"]["environment"])
    assert status == 1
    assert "Run `my-service migrate` first" in output


@WITH_DATABASE
def test_compose_sets_each_variable_of_a_command(
    image: Image, services: dict[str, Any], cluster: Cluster
) -> None:
    for service in ("service", "migrate"):
        variables = services[service]["environment"]
        url = variables["DATABASE_URL"].replace(f"@{HOST}:{cluster.port}/", "@database.invalid/")
        status, output = image.run("my-service", "migrate", **variables | {"DATABASE_URL": url})
        assert status == 1
        assert "Cannot connect to" in output


@WITH_DATABASE
def test_the_service_can_only_read_and_write_rows(
    image: Image, services: dict[str, Any], cluster: Cluster
) -> None:
    migrate(image, services)
    urls = {name: services[name]["environment"]["DATABASE_URL"] for name in ("service", "migrate")}
    with psycopg.connect(urls["migrate"]) as connection:
        connection.execute("CREATE TABLE notes (id serial PRIMARY KEY, body text)")
        connection.execute("CREATE SCHEMA billing")
        connection.execute("CREATE TYPE billing.status AS ENUM ('open', 'paid')")
        connection.execute("CREATE TABLE billing.invoices (status billing.status)")
        connection.execute("ALTER TABLE billing.invoices ADD id int GENERATED ALWAYS AS IDENTITY")
        connection.execute("CREATE FUNCTION billing.tax(int) RETURNS int RETURN $1 / 5")
        connection.execute("CREATE TABLE secrets AS SELECT 1 AS id")
        connection.execute("ALTER TABLE secrets ENABLE ROW LEVEL SECURITY")
    with psycopg.connect(urls["service"], autocommit=True) as connection:
        connection.execute("INSERT INTO notes (body) VALUES ('a')")
        connection.execute("UPDATE notes SET body = 'b' WHERE id = 1")
        assert connection.execute("SELECT * FROM notes").fetchall() == [(1, "b")]
        connection.execute("DELETE FROM notes")
        invoice = connection.execute(
            "INSERT INTO billing.invoices VALUES ('open') RETURNING status, id, billing.tax(100)"
        )
        assert invoice.fetchall() == [("open", 1, 20)]
        assert connection.execute("SELECT * FROM secrets").fetchall() == []
        for query in (
            "CREATE TABLE mine ()",
            "CREATE TEMPORARY TABLE mine ()",
            "CREATE SCHEMA mine",
            "CREATE DATABASE mine",
            "CREATE ROLE mine",
            "CREATE FUNCTION mine() RETURNS int RETURN 1",
            "ALTER TABLE items ADD mine int",
            "ALTER TABLE secrets DISABLE ROW LEVEL SECURITY",
            "CREATE INDEX mine ON items (name)",
            "DROP TABLE items",
            "TRUNCATE items",
            "SET ROLE owner",
            "SELECT * FROM pg_authid",
            "COPY items TO PROGRAM 'cat'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(query)
    for url in urls.values():
        for database in ("postgres", "template1"):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(url.removesuffix("/app") + f"/{database}")
    privileges = """
        SELECT rolname FROM pg_roles WHERE rolname IN ('app', 'owner')
        AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
    """
    tables = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    with psycopg.connect(cluster.superuser) as connection:
        assert connection.execute(privileges).fetchall() == []
        assert connection.execute(tables).fetchall() == [("owner",)]


def test_the_labels_have_the_answers(template: Path, folder: Path, python: Path) -> None:
    description = 'Says "hello" to C:\\, {{ braces }}, ünïcödé, $HOME'
    (folder / "labels").mkdir()
    project = render(template, folder / "labels" / "project", description=description)
    dockerfile = project / "Dockerfile"
    lines = [line for line in dockerfile.read_text().splitlines() if line.startswith("LABEL")]
    dockerfile.write_text("\n".join(["FROM base", *lines]))
    title = "org.opencontainers.image"
    assert Image(project, folder / "labels", python).labels == {
        f"{title}.title": "my-service",
        f"{title}.description": description,
    }
