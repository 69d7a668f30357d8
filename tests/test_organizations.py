"""A service with organizations whose role does not respect policies."""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest
from breakable import COMMAND, Postgres, Service, opening_postgres, row
from harness import UV, eventually, render, run, succeed


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with opening_postgres() as postgres:
        yield postgres


def alter_role(postgres: Postgres, attribute: str) -> None:
    """Only a superuser may do this, and nobody can connect as one."""
    options = ["--single", "--exit_on_error=on", "postgres"]
    with (postgres.folder / "log").open("ab") as log:
        statement = f"ALTER ROLE owner {attribute}\n"
        postgres.run(log, postgres.cluster, "postgres", *options, stdin=statement)


@row("The role of the service does not respect policies")
@pytest.mark.parametrize("attribute", ["BYPASSRLS", "SUPERUSER"])
def test_a_role_that_sees_all_organizations_is_refused(
    template: Path, tmp_path: Path, postgres: Postgres, attribute: str
) -> None:
    project = render(template, tmp_path / "project", organizations="members", jobs="postgres")
    succeed(project, UV, "sync", "--quiet")
    variables = {"DATABASE_URL": postgres.url, "AUTH_SECRET": token_hex(32)}
    succeed(project, UV, "run", "-q", COMMAND, "migrate", **variables)
    postgres.halt()
    # A service that starts while the database is unreachable looks later.
    service = Service(project, variables, "--drain=0")
    try:
        assert eventually(lambda: service.answers(status=503))
        alter_role(postgres, attribute)
        postgres.begin()
        is_refused = "must not be a superuser"
        assert eventually(lambda: is_refused in service.client.get("/health/ready").text)
    finally:
        service.stop()
    for command in ("serve", "work"):
        done = run(project, UV, "run", "-q", COMMAND, command, **variables)
        assert done.returncode == 1
        assert is_refused in done.stdout
        assert "Traceback" not in done.stdout
