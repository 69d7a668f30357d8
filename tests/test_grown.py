"""A project that a team has extended, only with new files and lines at extension points."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
from harness import (
    EXTENDED,
    TESTED,
    UV,
    add_lines,
    check_and_test,
    commit,
    eventually,
    git,
    make_environment,
    name,
    protect,
    read_mail,
    read_token,
    run_tests,
    succeed,
)
from postgres import free_port
from releases import ADDED, CURRENT, NEXT, start

GROWN = Path(__file__).with_name("grown")
APP, LIFESPAN, SETTINGS, CLI = (
    f"src/my_service/{module}.py" for module in ("app", "lifespan", "settings", "cli")
)
CONFTEST = "tests/conftest.py"


class Place(NamedTuple):
    """Lines for an extension point. `which` selects one of several with the same name."""

    path: str
    point: str
    lines: str
    which: int = 0


def include(feature: str) -> list[Place]:
    """Return the lines that include the router of a feature."""
    return [
        Place(APP, "imports", f"from .{feature}.router import router as {feature}"),
        Place(APP, "routers", f'app.include_router({feature}, prefix="/v1")'),
    ]


FEATURES = [
    Place(
        APP,
        "imports",
        "from .clock.router import router as clock\n"
        "from .machines.router import router as machines\n"
        "from .operations import name_operation\n"
        "from .payments.router import router as payments",
    ),
    Place(APP, "arguments", "generate_unique_id_function=name_operation,"),
    Place(
        APP,
        "routers",
        'for router in (clock, machines, payments):\n    app.include_router(router, prefix="/v1")',
    ),
    Place(LIFESPAN, "imports", "from .payments.client import Payments, open_payments"),
    Place(LIFESPAN, "pools", "payments: Payments", 0),
    Place(LIFESPAN, "pools", "open_payments(settings.payments) as payments,", 1),
    Place(LIFESPAN, "pools", "payments=payments,", 2),
    Place(LIFESPAN, "pools", 'await state["payments"].ping()', 3),
    Place(SETTINGS, "imports", "from .payments.settings import PaymentsSettings"),
    Place(SETTINGS, "groups", 'payments: PaymentsSettings\nsentry_dsn: str = ""', 1),
    Place(CLI, "imports", "from .shipping.commands import ship"),
    Place(CLI, "commands", "main.add_command(ship)"),
    Place(
        "src/my_service/middleware.py", "imports", "from .clock.middleware import RegionMiddleware"
    ),
    Place("src/my_service/middleware.py", "middleware", "app.add_middleware(RegionMiddleware)"),
    Place(
        "src/my_service/dependencies.py",
        "aliases",
        'async def get_region() -> str:\n    return "eu"\n\n\n'
        "RegionDep = Annotated[str, Depends(get_region)]",
    ),
    Place("dev/__main__.py", "imports", "from .payments import development_payments"),
    Place("dev/__main__.py", "servers", '"PAYMENTS_URL": development_payments,'),
    Place("dev/__main__.py", "processes", '[SERVICE, "ship"],'),
    Place(".env.development", "settings", "PAYMENTS_KEY=key\nPAYMENTS_WEBHOOK_SECRET=secret"),
    Place(
        ".env.example",
        "settings",
        "PAYMENTS_KEY=\nPAYMENTS_URL=https://payments.example.com\nPAYMENTS_WEBHOOK_SECRET=\n"
        "SENTRY_DSN=",
    ),
    Place("pyproject.toml", "dependencies", '"httpx2>=2.16.2",'),
    Place(
        CONFTEST, "fixtures", "@pytest.fixture\ndef opened({0}: State) -> State:\n    return {0}"
    ),
]
ORDERS = [
    Place("migrations/env.py", "options", "compare_server_default=True,"),
    *include("orders"),
]
FIRST = [
    *include("notes"),
    Place(SETTINGS, "imports", "from .notes.settings import NotesSettings"),
    Place(SETTINGS, "groups", "notes: NotesSettings", 1),
    Place(".env.example", "settings", "NOTES_MAX_LENGTH=1000"),
]


def lay(project: Path, overlay: str, places: list[Place], fixture: str = "") -> None:
    """Add a team's files, and its lines at extension points."""
    shutil.copytree(GROWN / overlay, project, dirs_exist_ok=True)
    for place in places:
        lines = place.lines.format(fixture)
        add_lines(project / place.path, place.point, lines, which=place.which)


@contextmanager
def developing(project: Path) -> Generator[httpx2.Client]:
    """Run `poe dev`, and log in as a developer does."""
    port = free_port()
    log = project.parent / "dev.log"
    # The team's own process, if the project has one.
    has_process = (project / "src/my_service/shipping").exists()
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [UV, "run", "poe", "dev"],
            cwd=project,
            env=make_environment(PORT=str(port)),
            stdout=file,
            stderr=file,
            start_new_session=True,
        ) as process,
    ):
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                assert eventually(lambda: is_ready(client)), process.poll()
                assert not has_process or eventually(lambda: "shipping" in log.read_text())
                log_in(client, project)
                yield client
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(30)
    output = log.read_text()
    assert "Traceback" not in output, output
    has_mail = (project / "src/my_service/mail").exists()
    assert ("Mail is written to .local/mail/" in output) == has_mail
    assert ("shipping" in output) == has_process


def is_ready(client: httpx2.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx2.TransportError:
        return False


def log_in(client: httpx2.Client, project: Path) -> None:
    document = client.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"].values()
    urls = [scheme["openIdConnectUrl"] for scheme in schemes if "openIdConnectUrl" in scheme]
    if urls:
        url = httpx2.get(urls[0]).json()["token_endpoint"]
        form = {"grant_type": "client_credentials", "client_id": "ada"}
    else:
        account = {"email": "ada@example.com", "password": "correct horse battery"}
        url = client.base_url.copy_with(path="/v1/auth/token")
        form = {"grant_type": "password", "username": account["email"]} | account
        if httpx2.post(url, data=form).status_code == 400:  # in the first run
            response = client.post("/v1/auth/users", json=account)
            if response.status_code == 202:
                proof = {"token": read_token(project, account["email"])}
                assert client.post("/v1/auth/verify", json=proof).status_code == 204
    token = httpx2.post(url, data=form).json()["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"


def list_migrations(project: Path) -> set[Path]:
    return set(project.glob("migrations/versions/*.py"))


def migration(project: Path, *arguments: str) -> set[Path]:
    """Run `poe migration`, and return the new file."""
    before = list_migrations(project)
    succeed(project, UV, "run", "-q", "poe", "migration", *arguments)
    return list_migrations(project) - before


UPGRADE = """
    op.execute("CREATE TABLE audit (at date)")
    op.execute(
        "CREATE FUNCTION next_status(orderstatus) RETURNS orderstatus "
        "RETURN CAST('shipped' AS orderstatus)"
    )
"""
DOWNGRADE = """
    op.execute("DROP FUNCTION next_status")
    op.execute("DROP TABLE audit")
"""


def assert_added_everywhere(project: Path, places: list[Place]) -> None:
    assert git(project, "ls-files", "--unmerged") == ""
    for path in {place.path for place in places}:
        assert ADDED in (project / path).read_text(), path


# The features of the team need the caller. One row is without a database.
ROWS = [*EXTENDED, next(row for row in TESTED if row["database"] == "none" != row["auth"])]


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_an_extended_project_updates_to_the_next_release(
    releases: Path, tmp_path: Path, row: dict[str, str]
) -> None:
    project = start(releases, tmp_path / "project", CURRENT, **row)
    has_orders, has_mail = row["database"] != "none", row["mail"] != "none"
    has_jobs, has_organizations = row["jobs"] != "none", row["organizations"] != "none"
    has_cache = row["cache"] != "none"
    lay(project, "features", FEATURES, "isolated" if has_orders else "state")
    if has_mail:
        lay(project, "receipts", include("receipts"))
    if has_jobs:
        lay(project, "reminders", include("reminders"))
    if has_organizations:
        lay(project, "documents", include("documents"))
    if has_cache:
        lay(project, "rates", include("rates"))
    if row["telemetry"] != "none":
        lay(project, "quotes", include("quotes"))
    if has_orders:
        lay(project, "orders", ORDERS)
        [orders] = migration(project, "add orders")
        if has_organizations:
            protect(orders, "documents")
        assert {"orders", "order_lines"} <= set(re.findall(r'"(\w+)"', orders.read_text()))
        # With the same date and message: a function, and a table without a model.
        [audit] = migration(project, "add orders", "--empty")
        text = audit.read_text().replace("    pass", UPGRADE, 1).replace("    pass", DOWNGRADE)
        audit.write_text(text.replace("\nrevision", "\nfrom alembic import op\n\nrevision", 1))
        assert migration(project, "add orders") == set()
    succeed(project, UV, "run", "-q", "poe", "format")
    tests = git(project, "ls-files", "--others", "tests/test_*.py").splitlines()
    commit(project, "Grow")

    path = "/v1/orders" if has_orders else "/v1/items"
    body = {"lines": [{"product": "Lamp", "quantity": 1}]} if has_orders else {"name": "Lamp"}
    documents = ""
    with developing(project) as client:
        assert client.post(path, json=body).status_code == 201
        kept = client.get(path).json()["items"]
        if has_mail:
            receipt = {"address": "bob@example.com", "number": 7}
            assert client.post("/v1/receipts", json=receipt).status_code == 202
            assert "received your order 7" in read_mail(project, receipt["address"])
        if has_organizations:
            organization = client.post("/v1/organizations", json={"name": "Acme"})
            documents = f"{organization.headers['Location']}/documents"
            assert client.post(documents, json={"name": "Plan"}).status_code == 201
        if has_jobs:
            assert client.post("/v1/reminders", json={"text": "pay"}).status_code == 202
            assert eventually(lambda: client.get("/v1/reminders").json() == ["pay"])
        if has_cache:
            assert [client.get("/v1/rates/USD").status_code for _ in range(6)] == [200] * 5 + [429]
        if has_orders:
            assert client.post(f"{path}/{kept[0]['id']}/ship").json()["status"] == "shipped"
            kept[0]["status"] = "shipped"

    output = succeed(project, UV, "run", "-q", "poe", "template-update", f"--vcs-ref={NEXT}")
    assert "The update has no conflicts." in output
    assert_added_everywhere(project, FEATURES)
    succeed(project, UV, "lock", "-q")
    succeed(project, UV, "run", "-q", "poe", "check")
    run_tests(project, *([] if row in EXTENDED else tests))
    with developing(project) as client:
        if has_organizations:
            assert [each["name"] for each in client.get(documents).json()["items"]] == ["Plan"]
        # Without a database, data is lost with the process.
        assert client.get(path).json()["items"] == (kept if has_orders else [])


def test_a_project_of_the_first_release_updates_to_this_one(releases: Path, tmp_path: Path) -> None:
    project = start(releases, tmp_path / "project", "v0.1.0", auth="password")
    lay(project, "first", FIRST)
    # A shell command, because the first release writes a migration this way.
    task = f"{UV} run -q poe dev alembic revision --autogenerate --message notes"
    succeed(project, "sh", "-c", task)
    commit(project, "Grow")
    with developing(project) as client:
        item = client.post("/v1/items", json={"name": "Lamp"}).json()
        notes = f"/v1/items/{item['id']}/notes"
        assert client.post(notes, json={"text": "Bright."}).status_code == 201

    output = succeed(project, UV, "run", "-q", "poe", "template-update", f"--vcs-ref={CURRENT}")
    assert "The update has no conflicts." in output
    succeed(project, UV, "lock", "-q")
    check_and_test(project)
    with developing(project) as client:
        assert client.post(notes, json={"text": "Warm."}).status_code == 201
        assert client.get(notes).json() == [{"text": "Bright."}, {"text": "Warm."}]
