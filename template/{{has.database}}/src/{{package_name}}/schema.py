"""The schema of the database: the migrations in `migrations/` of the working directory.

They are Alembic branches: one for each feature that has tables, and `app` for the team. The id of a
revision begins with its branch, as in `app_0123456789ab`.
"""

import ast
import json
import logging
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import alembic.command
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import URL, Column, Connection, MetaData, String, Table, func, insert, select

from .errors import Unavailable

TEAM = "app"
# Where Alembic records what it has applied.
VERSIONS = Table("alembic_version", MetaData(), Column("version_num", String))
RECORD = TypeAdapter(dict[str, list[str]])
# What Alembic's commands that migrate nothing are configured with.
READ_ONLY = ("as_sql", "dont_mutate", "revision_context")


class MigrationError(Unavailable):
    """The migrations do not fit the database. A sentence says why."""


class SchemaBehindError(MigrationError):
    detail = "The schema is behind"


def migrate(url: URL) -> None:
    """Apply all migrations that the database lacks.

    Raise `MigrationError` when there are none, or when they do not fit the database.
    """
    with alembic_errors():
        alembic.command.upgrade(make_config(url), "heads")


def remove_branch(url: URL, branch: str) -> None:
    """Revert the migrations of a branch, which drops its tables with the rows in them.

    Raise `MigrationError` when there is no such branch, or when another one depends on it.
    """
    with alembic_errors():
        config = make_config(url)
        scripts = ScriptDirectory.from_config(config)
        if branch not in list_branches(scripts):
            raise MigrationError(f"There is no branch {branch} in migrations/")

        def revert(heads: str, _: MigrationContext) -> list[MigrationStep]:
            base = f"{branch}@base"
            steps: list[MigrationStep] = []
            for script in scripts.iterate_revisions(heads, base, select_for_downgrade=True):
                if not is_of(branch, script):
                    raise MigrationError(
                        f"The branch {branch} cannot be removed: {script.revision} depends on it"
                    )
                steps.append(MigrationStep.downgrade_from_script(scripts.revision_map, script))
            return steps

        with EnvironmentContext(config, scripts, fn=revert):
            scripts.run_env()


def check_schema(connection: Connection) -> None:
    """Raise `SchemaBehindError` if the database lacks a migration of those in `migrations/`.

    A branch with a revision that is not there is ahead: a newer version of the service runs, too.
    Raise `MigrationError` if there is no such branch: the database belongs to something else.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with alembic_errors():
        scripts = ScriptDirectory.from_config(make_config())
        known = list_revisions(scripts, ["heads"])
        branches = list_branches(scripts)
        record = read_record(connection)
        applied: set[str] = set()
        for revision in MigrationContext.configure(connection).get_current_heads():
            branch = revision.rpartition("_")[0]
            applied |= {revision, *record.get(revision, ())} & known
            if revision not in known and branch in branches:
                applied.add(f"{branch}@heads")
            elif revision not in known and branch != TEAM:
                raise MigrationError(
                    f"The database has the migration {revision}, whose branch is not in migrations/"
                )
        current = {script.revision for script in scripts.get_all_current(tuple(applied))}
    if not current.issuperset(scripts.get_heads()):
        raise SchemaBehindError


def make_config(url: URL | None = None) -> Config:
    return Config(toml_file="pyproject.toml", attributes={"url": url})


@contextmanager
def alembic_errors() -> Generator[None]:
    try:
        yield
    except (CommandError, RevisionError) as error:
        raise MigrationError(
            f"{error}. It takes pyproject.toml and migrations/ of the version that is to run"
        ) from None


def list_branches(scripts: ScriptDirectory) -> set[str]:
    return {label for script in scripts.walk_revisions() for label in script.branch_labels}


@cache
def find_tables(scripts: ScriptDirectory) -> dict[str, Script]:
    """Find the migration that creates each table."""
    tables: dict[str, Script] = {}
    for script in scripts.walk_revisions():
        for node in ast.walk(ast.parse(Path(script.path).read_text())):
            match node:
                case ast.Call(
                    ast.Attribute(attr="create_table"), [ast.Constant(name), *_], keywords
                ) | ast.Call(ast.Attribute(attr="rename_table"), [_, ast.Constant(name)], keywords):
                    values = [keyword.value for keyword in keywords if keyword.arg == "schema"]
                    names = [value.value for value in values if isinstance(value, ast.Constant)]
                    tables[".".join(map(str, [*names, name]))] = script
    return tables


def is_of(branch: str, script: Script) -> bool:
    """Whether it is the branch's own, and not a migration of the team that was put on top of it."""
    is_own = script.is_base or script.revision.startswith(f"{branch}_")
    return branch in script.branch_labels and (is_own or branch == TEAM)


def list_revisions(scripts: ScriptDirectory, heads: Iterable[str]) -> set[str]:
    """List revisions with all that they build and depend on."""
    return {script.revision for head in heads for script in scripts.walk_revisions(head=head)}


def read_record(connection: Connection) -> dict[str, list[str]]:
    comment = func.obj_description(func.to_regclass(VERSIONS.name), "pg_class")
    try:
        return RECORD.validate_json(connection.scalar(select(comment)) or "{}")
    except ValidationError:  # somebody else's comment
        return {}


@contextmanager
def recording(
    connection: Connection | None, context: MigrationContext, scripts: ScriptDirectory
) -> Generator[None]:
    """Keep in a comment of Alembic's table which revisions each of its rows implies.

    Alembic has no row for a branch on which another one depends: the file of the latter says that
    it is applied. An older version of the service lacks that file, though. And when the team's
    migrations no longer depend on a branch, which can be removed then, it needs a row again.
    """
    if connection is None or any(context.opts.get(name) for name in READ_ONLY):
        yield
        return
    known = list_revisions(scripts, ["heads"])
    rows = known.intersection(context.get_current_heads())
    record = read_record(connection)
    recorded = known.intersection(revision for row in rows for revision in record.get(row, ()))
    lost = recorded - list_revisions(scripts, rows)
    for revision in lost:
        if revision not in list_revisions(scripts, lost - {revision}):
            connection.execute(insert(VERSIONS).values(version_num=revision))
    yield
    rows = known.intersection(context.get_current_heads())
    updated = {row: sorted(list_revisions(scripts, [row])) for row in sorted(rows)}
    if rows and updated != record:
        Operations(context).create_table_comment(VERSIONS.name, json.dumps(updated))
