"""A clone of this repository with a tag for each release, and for two future ones."""

import re
import shutil
from pathlib import Path

from harness import ROOT, commit, git, list_releases, render, take_snapshot

# The working tree and an invented release after it. Higher than any real version.
CURRENT, NEXT = "v9000.0.0", "v9001.0.0"
ADDED = "added in the next release"
MIGRATION = '''"""more statistics"""

from alembic import op

revision = "auth_3"
down_revision = "auth_2"


def upgrade() -> None:
    op.execute("ALTER TABLE users ALTER email SET STATISTICS 200")


def downgrade() -> None:
    op.execute("ALTER TABLE users ALTER email SET STATISTICS -1")
'''


def make_releases(folder: Path) -> Path:
    """Clone the repository, tag its releases, and add the working tree and the next release."""
    template = folder / "template"
    git(ROOT, "clone", "--quiet", "--no-tags", str(ROOT), str(template))
    for version, revision in list_releases().items():
        git(template, "tag", f"v{version}", revision)
    sources = template / "template"
    shutil.rmtree(sources)
    take_snapshot(template)
    commit(template, "The working tree")
    git(template, "tag", CURRENT)

    # The next release changes a line beside each extension point, and files of each kind.
    for path in [path for path in sources.rglob("*") if path.is_file()]:
        text = path.read_text()
        changed = re.sub(
            r"^( *)((# isort: split\n)?# Yours: .*\n)",
            rf"\1# {ADDED}\n\1\2",
            text,
            flags=re.MULTILINE,
        )
        path.write_text(changed if "Yours: " in text else text)
    (sources / "README.md.jinja").write_text("another README\n")
    (sources / "new" / "{{package_name}}").mkdir(parents=True)
    (sources / "new" / "{{package_name}}" / "file.txt").write_text(ADDED + "\n")
    package = sources / "src" / "{{package_name}}"
    (package / "main.py").chmod(0o755)
    (package / "py.typed").unlink()
    tests = sources / "tests"
    (tests / "test_logs.py.jinja").rename(tests / "test_log.py.jinja")
    versions = sources / "{{has.password}}" / "migrations" / "versions"
    (versions / "2026_12_01_auth_3.py").write_text(MIGRATION)
    commit(template, "The next release")
    git(template, "tag", NEXT)
    return template


def start(template: Path, project: Path, ref: str, **answers: str) -> Path:
    """Render a version in a new repository, and commit it."""
    render(template, project, ref=ref, **answers)
    git(project, "init", "--quiet")
    commit(project, "Start from the template")
    return project
