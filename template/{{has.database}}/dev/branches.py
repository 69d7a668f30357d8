"""How an update from the template affects the branches of the migrations."""

import ast
import tomllib
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from alembic.util import to_tuple

FIELDS = ("revision", "down_revision", "branch_labels", "depends_on")


@dataclass(frozen=True)
class Migration:
    path: Path
    revision: str
    down_revisions: tuple[str, ...]
    labels: tuple[str, ...]
    dependencies: tuple[str, ...]

    @property
    def branch(self) -> str:
        return self.labels[0] if self.labels else self.revision.rpartition("_")[0]


def read_migrations(project: Path) -> dict[str, Migration]:
    """Return the migrations of a project by revision, without importing them."""
    migrations = {}
    for path in sorted(project.glob("migrations/versions/*.py")):
        fields = dict.fromkeys(FIELDS)
        for node in ast.parse(path.read_text()).body:
            match node:
                case ast.Assign([ast.Name(name)]) | ast.AnnAssign(ast.Name(name)):
                    if name in FIELDS and node.value:
                        fields[name] = ast.literal_eval(node.value)
        revision, *others = fields.values()
        migrations[str(revision)] = Migration(
            path.relative_to(project), str(revision), *(to_tuple(other, ()) for other in others)
        )
    return migrations


def describe_deleted_branches(old: Path, new: Path, removed: list[str]) -> str:
    """Say which branches to remove from the databases before an update deletes their migrations.

    Leave out those in `removed`. Return an empty string if no branch is left.
    """
    migrations = read_migrations(Path())
    revisions = migrations.keys() & read_migrations(old).keys() - read_migrations(new).keys()
    branches = {migrations[revision].branch for revision in revisions} - {*removed}
    if not branches:
        return ""
    sorter = TopologicalSorter[str]()
    for migration in migrations.values():
        dependencies = {  # each is the name of a revision or of a branch
            migrations[name].branch if name in migrations else name
            for name in migration.dependencies
        }
        sorter.add(migration.branch, *dependencies - {migration.branch})
    order = [branch for branch in reversed([*sorter.static_order()]) if branch in branches]
    service = tomllib.loads(Path("pyproject.toml").read_text())["project"]["name"]
    commands = "".join(f"  uv run poe dev {service} migrate --remove {name}\n" for name in order)
    options = " ".join(f"--removed {name}" for name in [*removed, *order])
    return (
        "The update would delete migrations whose tables exist. Drop the tables first, with their "
        f"rows, in every database:\n{commands}In production, run `{service} migrate --remove` with "
        f"the version that is deployed. Then repeat the update with: {options}"
    )


def describe_dependent_migrations(new: Path) -> str:
    """Say how to move migrations of the team that descend from migrations of the template."""
    template, migrations = read_migrations(new), read_migrations(Path())
    has_branch = any("app" in migration.labels for migration in migrations.values())
    advice = ""
    for revision, migration in migrations.items():
        bases = [parent for parent in migration.down_revisions if parent in template]
        if revision in template or not bases:
            continue
        parents = tuple(parent for parent in migration.down_revisions if parent not in template)
        branches = " and ".join(template[parent].branch for parent in bases)
        advice += (
            f"{migration.path} is based on a migration of the template. Replace its lines with "
            f"these, so that the branch {branches} can be removed without it:\n"
            f"    down_revision = {parents or None}\n"
        )
        if not parents and not has_branch:
            advice += '    branch_labels = ("app",)\n'
            has_branch = True
        advice += f"    depends_on = {(*bases, *migration.dependencies)}\n"
    return advice
