"""Databases with data while their project changes: answers, branches, a team's migrations."""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import LiteralString

import httpx2
import psycopg
import pytest
from breakable import COMMAND, Nats, Service
from harness import (
    UV,
    add_code,
    add_lines,
    commit,
    eventually,
    find_questions,
    git,
    read_section,
    render,
    run,
    succeed,
)
from postgres import running
from psycopg import sql
from releases import CURRENT
from workers import JOBS, Worker

# A team's migration and model.
CREATE = "op.execute(\"CREATE TABLE orders AS SELECT 'kept' AS name\")"
DROP = 'op.execute("DROP TABLE orders")'
MODEL = """
from uuid import UUID

from sqlalchemy import ARRAY, Enum, ForeignKey
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.orm import Mapped, mapped_column

from .database import Base


class Order(Base):
    __tablename__ = "orders"

    buyer_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    status: Mapped[str] = mapped_column(Enum("new", name="orderStatus"))
    labels: Mapped[list[str]] = mapped_column(ARRAY(Enum("urgent", name="label")))
    mood: Mapped[str] = mapped_column(ENUM("fine", name="mood", create_type=False))
    kind: Mapped[str] = mapped_column(Enum("gift", name="kind", native_enum=False))


class Invoice(Base):
    __tablename__ = "invoices"
    __table_args__ = ({"schema": "billing"},)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(Enum("paid", name="status", schema="billing"))
"""


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with running() as url:
        yield url


@pytest.fixture
def database(server: str) -> str:
    """The URL of an empty database, for the commands of `poe dev`."""
    name = f"live_{token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return server.replace("/app_test", f"/{name}")


def query(url: str, statement: LiteralString) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def start(releases: Path, project: Path, ref: str = CURRENT, **answers: str) -> Path:
    render(releases, project, ref=ref, **answers)
    succeed(project, UV, "lock", "--quiet")
    git(project, "init", "--quiet")
    commit(project, "Start from the template")
    return project


def dev(project: Path, url: str, *command: str) -> str:
    return succeed(project, UV, "run", "-q", "poe", "dev", *command, DATABASE_URL=url)


def write_migration(project: Path, url: str, *command: str) -> Path:
    """Write a migration that creates a table of the team."""
    old_paths = set(project.glob("migrations/versions/*.py"))
    succeed(project, UV, "run", "-q", "poe", *command, DATABASE_URL=url)
    [path] = set(project.glob("migrations/versions/*.py")) - old_paths
    text = (
        path.read_text().replace("    pass", f"    {CREATE}", 1).replace("    pass", f"    {DROP}")
    )
    path.write_text(text.replace("revision =", "from alembic import op\n\nrevision =", 1))
    return path


def update(project: Path, url: str, **answers: str) -> list[str]:
    """Update with new answers, and return the branches that had to be removed first."""
    data = [f"--data={question}={answer}" for question, answer in answers.items()]
    command = [UV, "run", "-q", "poe", "template-update", f"--vcs-ref={CURRENT}", *data]
    done = run(project, *command)
    branches = re.findall(r"migrate --remove (\w+)$", done.stdout, re.MULTILINE)
    # The update stops before it changes a file, or it succeeds.
    outcome = (done.returncode, git(project, "status", "--porcelain") == "")
    assert outcome == ((1, True) if branches else (0, False))
    for line in re.findall(r"^  (uv run poe dev .+)$", done.stdout, re.MULTILINE):
        succeed(project, "sh", "-c", line.replace("uv", UV, 1), DATABASE_URL=url)
    if branches:
        options = re.findall(r"with: (.+)$", done.stdout, re.MULTILINE)[0].split()
        done = run(project, *command, *options)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    succeed(project, UV, "lock", "--quiet")
    commit(project, "Update")
    return branches


PASSWORD = {"database": "asyncpg", "auth": "password"}
MAIL = PASSWORD | {"mail": "smtp"}
OIDC = {"database": "asyncpg", "auth": "oidc"}
SINGLE = OIDC | {"organizations": "none"}
ORGANIZATIONS = PASSWORD | {"organizations": "members"}
PASSWORD_BRANCHES = ["organization_items", "organizations", "example", "auth"]
ROWS: dict[str, list[LiteralString]] = {
    "password": [
        "INSERT INTO users SELECT id, id || '@b.c', '', 'user', true, now(), now() FROM "
        "gen_random_uuid() AS id",
        "INSERT INTO items SELECT gen_random_uuid(), id, 'x', '', now(), now() FROM users",
    ],
    "oidc": ["INSERT INTO items VALUES (gen_random_uuid(), 'ada', 'x', '', now(), now())"],
    "none": ["INSERT INTO items VALUES (gen_random_uuid(), 'x', '', now(), now())"],
}


TOKENS: LiteralString = """
INSERT INTO email_tokens
SELECT id, 'password_reset', email, id, '', NULL, now(), now(), now() FROM users
"""


# The first answers, the changed ones, and the branches removed by the change and by undoing it.
CHANGES = [
    (
        ORGANIZATIONS,
        {"auth": "oidc"},
        PASSWORD_BRANCHES,
        ["organization_items", "organizations", "example"],
    ),
    (SINGLE, {"organizations": "members"}, list[str](), ["organization_items", "organizations"]),
    (MAIL, {"auth": "oidc"}, ["mail", "example", "auth"], ["example"]),
    (PASSWORD, {"auth": "none"}, ["example", "auth"], ["example"]),
    (OIDC, {"auth": "none"}, ["example"], ["example"]),
    (OIDC, {"database": "none"}, ["example"], list[str]()),
]


def test_each_question_with_tables_is_changed() -> None:
    questions = {question for _, changes, *_ in CHANGES for question in changes}
    questions |= {"mail", "jobs"}  # in `test_accounts_remain_valid_with_and_without_mail`
    questions |= {"organizations"}  # in `test_items_belong_to_organizations_and_back`
    assert questions == {*find_questions("migrations/versions/*")}


@pytest.mark.parametrize(("on", "off", "removed_first", "removed_then"), CHANGES)
def test_an_answer_can_change_on_a_database_with_data(
    releases: Path,
    database: str,
    tmp_path: Path,
    on: dict[str, str],
    off: dict[str, str],
    removed_first: list[str],
    removed_then: list[str],
) -> None:
    def insert(answers: dict[str, str]) -> None:
        """Insert rows, if the project has a database."""
        if answers["database"] != "none":
            dev(project, database, "my-service", "migrate")
            # Rows of organizations cannot be added without one.
            if answers.get("organizations") != "members":
                for statement in ROWS[answers["auth"]]:
                    query(database, statement)
            if answers["auth"] == "password" and answers.get("mail") == "smtp":
                query(database, TOKENS)
            assert "No new upgrade operations" in dev(project, database, "alembic", "check")
        assert query(database, "SELECT * FROM orders") == [("kept",)]

    project = start(releases, tmp_path / "project", **on)
    write_migration(project, database, "migration", "--empty", "add orders")
    commit(project, "Add orders")
    insert(on)
    assert update(project, database, **off) == removed_first
    insert(on | off)
    assert update(project, database, **on) == removed_then
    insert(on)


def test_login_sessions_of_the_first_release_continue(
    releases: Path, database: str, tmp_path: Path
) -> None:
    variables = {"DATABASE_URL": database, "AUTH_SECRET": token_hex(32)}

    def serve() -> Service:
        succeed(project, UV, "sync", "--quiet")
        dev(project, database, "my-service", "migrate")
        service = Service(project, variables)
        stack.callback(service.stop)
        assert eventually(service.answers), service.log
        return service

    def refresh(service: Service, token: str) -> httpx2.Response:
        form = {"grant_type": "refresh_token", "refresh_token": token}
        return service.client.post("/v1/auth/token", data=form)

    with ExitStack() as stack:
        project = start(releases, tmp_path / "project", "v0.1.0", **PASSWORD)
        old_service = serve()
        account = {"email": "ada@example.com", "password": "correct horse battery"}
        assert old_service.client.post("/v1/auth/users", json=account).status_code == 201
        form = {"grant_type": "password", "username": account["email"]}
        form |= {"password": account["password"]}
        tokens = [old_service.client.post("/v1/auth/token", data=form).json() for _ in range(3)]
        new_token = refresh(old_service, tokens[1]["refresh_token"]).json()
        old_service.client.post("/v1/auth/revoke", data={"token": tokens[2]["refresh_token"]})
        assert old_service.stop() == 0
        assert update(project, database) == []
        new_service = serve()
        headers = {"Authorization": f"Bearer {tokens[0]['access_token']}"}
        assert new_service.client.get("/v1/auth/me", headers=headers).status_code == 200
        # Valid tokens can be used once more; invalid ones stay invalid.
        for token in (tokens[0], new_token):
            response = refresh(new_service, token["refresh_token"])
            assert response.status_code == 200
            assert refresh(new_service, response.json()["refresh_token"]).status_code == 200
            assert refresh(new_service, token["refresh_token"]).status_code == 400
        assert query(database, "SELECT * FROM user_sessions") == []
        for token in tokens:
            assert refresh(new_service, token["refresh_token"]).status_code == 400


@contextmanager
def serving(project: Path, variables: dict[str, str]) -> Iterator[Service]:
    """Migrate the database in DATABASE_URL, and serve."""
    succeed(project, UV, "sync", "--quiet")
    dev(project, variables["DATABASE_URL"], "my-service", "migrate")
    check = dev(project, variables["DATABASE_URL"], "alembic", "check")
    assert "No new upgrade operations" in check
    service = Service(project, variables)
    try:
        assert eventually(service.answers), service.log
        yield service
    finally:
        assert service.stop() == 0


def test_accounts_remain_valid_with_and_without_mail(
    releases: Path, database: str, tmp_path: Path
) -> None:
    variables = {
        "DATABASE_URL": database,
        "AUTH_SECRET": token_hex(32),
        "MAIL_URL": "smtp://localhost:9",  # where no mail server listens
        "MAIL_SENDER": "no-reply@example.com",
        "MAIL_LINK_URL": "https://app.example.com",
    }
    account = {"email": "ada@example.com", "password": "correct horse battery"}
    form = {"grant_type": "password", "username": account["email"]} | account

    def sign_up_and_log_in() -> int:
        """Return the status of the sign-up."""
        with serving(project, variables) as service:
            status = service.client.post("/v1/auth/users", json=account).status_code
            token = service.client.post("/v1/auth/token", data=form).json()["access_token"]
            service.client.headers["Authorization"] = f"Bearer {token}"
            assert service.client.get("/v1/auth/me").json()["email"] == account["email"]
        return status

    project = start(releases, tmp_path / "project", **PASSWORD)
    assert sign_up_and_log_in() == 201
    assert update(project, database, mail="smtp") == []
    assert sign_up_and_log_in() == 202
    assert update(project, database, jobs="postgres") == []
    assert sign_up_and_log_in() == 202
    # The mail of the sign-up waits for a worker.
    waiting = "SELECT count(*) FROM jobs WHERE schedule IS NULL"
    assert query(database, waiting) == [(1,)]
    assert {*update(project, database, mail="none", jobs="none")} == {"mail", "jobs"}
    assert sign_up_and_log_in() == 409


def test_jobs_that_wait_move_to_nats_and_back(
    releases: Path, database: str, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    starts.touch()
    variables = {"DATABASE_URL": database, "AUTH_SECRET": token_hex(32), "STARTS": str(starts)}
    add_job: LiteralString = (
        "INSERT INTO jobs (id, name, payload, key, context, attempts, due_at, failed_at, "
        "created_at, updated_at) SELECT gen_random_uuid(), 'Work', "
        "jsonb_build_object('tag', tag, 'seconds', seconds), key, '{}', 0, now(), failed_at, "
        "now(), now() FROM "
    )

    def list_effects() -> list[object]:
        return [tag for (tag,) in query(database, "SELECT tag FROM effects ORDER BY tag")]

    def work(tags: list[str]) -> None:
        worker = Worker(project, variables)
        try:
            assert eventually(lambda: list_effects() == tags, 60), worker.log
        finally:
            assert worker.stop() == 0

    project = start(releases, tmp_path / "project", auth="none", jobs="postgres")
    add_code(project, "src/my_service/works/jobs.py", JOBS)
    app = project / "src" / "my_service" / "app.py"
    add_lines(app, "imports", "from .works import jobs as _works")
    commit(project, "Add a handler")
    dev(project, database, "my-service", "migrate")
    query(database, "CREATE TABLE effects (tag text)")
    query(
        database,
        f"{add_job} (VALUES ('a', 0, NULL, NULL::timestamptz), ('b', 0, 'key', NULL), "
        "('failed', 0, NULL, now())) AS job (tag, seconds, key, failed_at)",
    )
    assert update(project, database, jobs="nats") == []
    dev(project, database, "my-service", "migrate")
    folder = tmp_path / "nats"
    folder.mkdir()
    nats = Nats(project, folder)
    nats.begin()
    try:
        variables["JOBS_NATS_URL"] = nats.url
        succeed(project, UV, "run", "-q", COMMAND, "jobs", "create-stream", **variables)
        work(["a", "b"])
        # One of them runs while its worker is stopped, the others wait in NATS.
        query(
            database,
            f"{add_job} (VALUES ('c', 60, NULL, NULL::timestamptz), ('d', 60, 'key', NULL), "
            "('e', 60, NULL, NULL)) AS job (tag, seconds, key, failed_at)",
        )
        worker = Worker(project, variables | {"JOBS_CONCURRENCY": "1"}, "--grace=0")
        rows: LiteralString = "SELECT count(*) FROM jobs WHERE failed_at IS NULL AND due_at < now()"
        assert eventually(lambda: query(database, rows) == [(0,)], 60), worker.log
        assert eventually(lambda: any(f" {tag}\n" in starts.read_text() for tag in "cde"), 60)
        assert worker.stop() == 0
        remove = (UV, "run", "-q", COMMAND, "migrate", "--remove", "nats")
        done = run(project, *remove, **variables)
        assert done.returncode == 1
        assert "jobs withdraw` first" in done.stdout, done.stdout
        withdraw = (UV, "run", "-q", COMMAND, "jobs", "withdraw")
        assert "3 jobs were moved" in succeed(project, *withdraw, **variables)
    finally:
        nats.kill()
        shutil.rmtree(folder / "jetstream")
    assert update(project, database, jobs="postgres") == ["nats"]
    starts.write_text(" c\n d\n e\n")  # those that start again take no time
    work(["a", "b", "c", "d", "e"])
    [(error,)] = query(database, "SELECT count(*) FROM jobs WHERE failed_at IS NOT NULL")
    assert error == 1


def test_items_belong_to_organizations_and_back(
    releases: Path, database: str, tmp_path: Path
) -> None:
    variables = {
        "DATABASE_URL": database,
        "AUTH_SECRET": token_hex(32),
        "CACHE_URL": "redis://127.0.0.1:1",  # where no server listens
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    }
    emails = ("ada@example.com", "bob@example.com")

    def log_in(service: Service, email: str) -> None:
        form = {"grant_type": "password", "username": email, "password": "correct horse battery"}
        token = service.client.post("/v1/auth/token", data=form).json()["access_token"]
        service.client.headers["Authorization"] = f"Bearer {token}"

    def list_names(service: Service, path: str) -> list[str]:
        return [row["name"] for row in service.client.get(path).json()["items"]]

    project = start(releases, tmp_path / "project", **PASSWORD)
    with serving(project, variables) as service:
        for email in emails:
            account = {"email": email, "password": "correct horse battery"}
            assert service.client.post("/v1/auth/users", json=account).status_code == 201
            log_in(service, email)
            for number in range(2):
                item = {"name": f"{email} {number}"}
                assert service.client.post("/v1/items", json=item).status_code == 201
    others = {"cache": "redis", "telemetry": "opentelemetry"}
    assert update(project, database, organizations="members", **others) == []
    with serving(project, variables) as service:
        for email in emails:
            log_in(service, email)
            [organization] = service.client.get("/v1/organizations").json()["items"]
            assert (organization["name"], organization["role"]) == ("Personal", "owner")
            path = f"/v1/organizations/{organization['id']}/items"
            assert list_names(service, path) == [f"{email} 0", f"{email} 1"]
            assert service.client.post(path, json={"name": f"{email} 2"}).status_code == 201
            assert service.client.get(f"{path}/statistics/words").json()["items"] == 3
    removed = update(project, database, organizations="none", **dict.fromkeys(others, "none"))
    assert removed == ["organization_items", "organizations"]
    with serving(project, variables) as service:
        for email in emails:
            log_in(service, email)
            assert list_names(service, "/v1/items") == [f"{email} {number}" for number in range(3)]
    assert update(project, database, organizations="members") == []
    with serving(project, variables) as service:
        log_in(service, emails[1])
        assert list_names(service, "/v1/organizations") == ["Personal"]


@pytest.mark.parametrize("auth", ["password", "oidc"])
def test_a_database_of_the_first_release_with_a_migration_of_its_team(
    releases: Path, database: str, tmp_path: Path, auth: str
) -> None:
    project = start(releases, tmp_path / "project", "v0.1.0", auth=auth)
    dev(project, database, "my-service", "migrate")
    command = ("dev", "alembic", "revision", "--message", "orders")
    path = write_migration(project, database, *command)
    dev(project, database, "my-service", "migrate")
    commit(project, "Add orders")
    assert update(project, database) == []
    upgrades = re.findall(
        r"Running upgrade .*-> (\w+)", dev(project, database, "my-service", "migrate")
    )
    assert upgrades == {"password": ["auth_2"], "oidc": []}[auth]
    assert "No new upgrade operations" in dev(project, database, "alembic", "check")

    # The team's migration depends on the example, so the example cannot be removed.
    remove = [UV, "run", "-q", "poe", "dev", "my-service", "migrate", "--remove", "example"]
    refusal = run(project, *remove, DATABASE_URL=database)
    assert refusal.returncode == 1
    assert "The branch example cannot be removed" in refusal.stdout
    update_command = ("poe", "template-update", f"--vcs-ref={CURRENT}")
    advice = succeed(project, UV, "run", "-q", *update_command)
    lines = re.findall(r"^    (\w+ = .+)$", advice, re.MULTILINE)
    assert f"{path.relative_to(project)} is based on a migration of the template." in advice
    text = re.sub(r"^down_revision = .+$", "\n".join(lines), path.read_text(), flags=re.MULTILINE)
    path.write_text(text)
    assert "Running upgrade" not in dev(project, database, "my-service", "migrate")

    # The team's table has no foreign key to an item.
    path.write_text(re.sub(r"^depends_on = .+\n", "", text, flags=re.MULTILINE))
    remove_example(project, database)
    assert query(database, "SELECT to_regclass('items')") == [(None,)]
    assert query(database, "SELECT * FROM orders") == [("kept",)]
    assert "Running upgrade" not in dev(project, database, "my-service", "migrate")
    assert "No new upgrade operations" in dev(project, database, "alembic", "check")


def remove_example(project: Path, url: str) -> None:
    """Follow the docs."""
    section = read_section(project, "Remove the example")
    for command in re.findall(r"^    (.+)$", section, re.MULTILINE):
        succeed(project, "sh", "-c", command, DATABASE_URL=url)
    app = project / "src" / "my_service" / "app.py"
    lines = app.read_text().splitlines(keepends=True)
    app.write_text("".join(line for line in lines if "items" not in line))


@pytest.fixture(scope="session")
def project(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = start(releases, tmp_path_factory.mktemp("project") / "rendered")
    (project / "src" / "my_service" / "orders.py").write_text(MODEL.lstrip())
    app = project / "src" / "my_service" / "app.py"
    lines = "# Yours: imports\nfrom . import orders as _orders  # noqa: F401\n"
    app.write_text(app.read_text().replace("# Yours: imports\n", lines))
    env = project / "migrations" / "env.py"
    options = "include_schemas=True,\n        # Yours: options\n"
    env.write_text(env.read_text().replace("# Yours: options\n", options))
    return project


def migration(project: Path, url: str, *arguments: str) -> tuple[str, set[Path]]:
    """Run `poe migration`, and return its output and the new files."""
    contents = {path: path.read_bytes() for path in project.glob("migrations/versions/*.py")}
    output = succeed(project, UV, "run", "-q", "poe", "migration", *arguments, DATABASE_URL=url)
    assert contents == {path: path.read_bytes() for path in contents}
    return output, set(project.glob("migrations/versions/*.py")) - contents.keys()


def test_migrations_of_a_team(project: Path, database: str) -> None:
    query(database, "CREATE TABLE of_an_extension (id int)")
    query(database, "CREATE SCHEMA billing")
    query(database, "CREATE TABLE billing.orders (id int)")
    query(database, "CREATE TYPE mood AS ENUM ('fine')")
    _, [first] = migration(project, database, "add orders")
    revision = re.findall(r'^revision = "(app_[0-9a-f]{12})"$', first.read_text(), re.MULTILINE)[0]
    assert revision in first.name
    assert (
        'down_revision = None\nbranch_labels = ("app",)\ndepends_on = "auth_2"\n'
        in first.read_text()
    )
    assert "of_an_extension" not in first.read_text()
    for command in (("downgrade", "app@base"), ("upgrade", "heads")):
        dev(project, database, "alembic", *command)
    output, files = migration(project, database, "add orders")
    assert "there is nothing to migrate" in output
    assert files == set()
    for message in (
        "add orders",
        "add orders",
        "",
        'say """hi\\',
        "a\nb {c} %s ${d}",
        "long " * 40,
    ):
        _, [path] = migration(project, database, "--empty", message)
        assert re.search(r'^down_revision = "app_[0-9a-f]{12}"$', path.read_text(), re.MULTILINE)
    for _ in range(2):
        dev(
            project,
            database,
            "alembic",
            "revision",
            "--message",
            "add orders",
            "--head",
            "app@head",
        )
    assert len(list(project.glob("migrations/versions/*.py"))) == 3 + 1 + 6 + 2
    dev(project, database, "my-service", "migrate")
    succeed(project, UV, "run", "-q", "poe", "check")


def test_removing_the_example_keeps_the_tables_of_the_team(
    releases: Path, database: str, tmp_path: Path
) -> None:
    project = start(releases, tmp_path / "project")
    write_migration(project, database, "migration", "--empty", "add orders")
    dev(project, database, "my-service", "migrate")
    for statement in ROWS["password"]:
        query(database, statement)
    remove_example(project, database)
    assert "Running upgrade" not in dev(project, database, "my-service", "migrate")
    assert query(database, "SELECT to_regclass('items')") == [(None,)]
    assert query(database, "SELECT * FROM orders") == [("kept",)]
    assert query(database, "SELECT count(*) FROM users") == [(1,)]
