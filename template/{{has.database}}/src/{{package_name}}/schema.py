"""Applies, checks and removes the migrations in `migrations/` of the working directory.

They are Alembic branches: one for each feature with tables, and `app` for the team. The id of a
revision starts with the name of its branch, as in `app_0123456789ab`.
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
# Alembic's table of applied revisions.
VERSIONS = Table("alembic_version", MetaData(), Column("version_num", String))
RECORD = TypeAdapter(dict[str, list[str]])
# Options of Alembic's commands that change no schema.
READ_ONLY = ("as_sql", "dont_mutate", "revision_context")


class MigrationError(Unavailable):
    """The migrations do not match the database. The text says why."""


class SchemaBehindError(MigrationError):
    detail = "The schema is behind"


def migrate(url: URL) -> None:
    """Apply all migrations that are missing in the database.

    Raise `MigrationError` if there are no migrations, or if they do not match the database.
    """
    with alembic_errors():
        alembic.command.upgrade(make_config(url), "heads")


def remove_branch(url: URL, branch: str) -> None:
    """Revert the migrations of a branch, which drops its tables and their rows.

    Raise `MigrationError` if there is no such branch, or if another one depends on it.
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
                if not belongs_to(branch, script):
                    raise MigrationError(
                        f"The branch {branch} cannot be removed: {script.revision} depends on it"
                    )
                steps.append(MigrationStep.downgrade_from_script(scripts.revision_map, script))
            return steps

        with EnvironmentContext(config, scripts, fn=revert):
            scripts.run_env()


def check_schema(connection: Connection) -> None:
    """Raise `SchemaBehindError` if a migration of `migrations/` is missing in the database.

    A revision of the database that is not in `migrations/` is accepted if its branch is known: a
    newer version of the service has applied it. Raise `MigrationError` if its branch is unknown: it
    is the database of another service.
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
            f"{error}. Are pyproject.toml and migrations/ those of the version that should run?"
        ) from None


def list_branches(scripts: ScriptDirectory) -> set[str]:
    return {label for script in scripts.walk_revisions() for label in script.branch_labels}


@cache
def find_tables(scripts: ScriptDirectory) -> dict[str, Script]:
    """Return the migration that creates each table."""
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


def belongs_to(branch: str, script: Script) -> bool:
    """Return whether a migration is the branch's own, not one of the team that is based on it."""
    is_own = script.is_base or script.revision.startswith(f"{branch}_")
    return branch in script.branch_labels and (is_own or branch == TEAM)


def list_revisions(scripts: ScriptDirectory, heads: Iterable[str]) -> set[str]:
    """List revisions and all revisions that they are based on or depend on."""
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
    """Record in a comment on Alembic's table which revisions each of its rows implies.

    If branch A depends on branch B, Alembic deletes the row of B, since the migration files of A
    imply it. An older version of the service does not have these files, so it reads the comment.
    If migrations of the team stop depending on a branch, the row of that branch is inserted again.
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
