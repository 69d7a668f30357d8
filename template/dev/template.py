"""`poe template-update` and `poe template-diff`: this project, and the template that it came from.

What the template made of this project's answers is rendered anew, in the version that the project
has. Against that, what the project has changed shows, and what an update took away.
"""

import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from difflib import ndiff
from pathlib import Path
from tempfile import TemporaryDirectory

ANSWERS = ".copier-answers.yml"
COPIER = ["uvx", "--from", "copier>=9.19.1,<10", "copier"]
# Rendered once, and this project's own since.
SEEDS = {"README.md"}
MARKER = b"\n" + b"<" * 7 + b" before updating\n"


class TemplateError(Exception):
    """A sentence that tells what prevents it, and what to do."""


def main() -> int:
    parser = ArgumentParser(prog="poe")
    tasks = parser.add_subparsers(required=True)
    update_task = tasks.add_parser("template-update")
    update_task.add_argument("--vcs-ref", metavar="VERSION", help="of the template, not the latest")
    update_task.add_argument("--data", metavar="QUESTION=VALUE", action="append", default=[])
    update_task.add_argument("--conflict", choices=["inline", "rej"], default="inline")
    update_task.set_defaults(run=update)
    tasks.add_parser("template-diff").set_defaults(run=show_changes)
    options = parser.parse_args()
    try:
        options.run(options)
    except TemplateError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def show_changes(options: Namespace) -> None:
    """Show what this project has changed in the files that are the template's."""
    with TemporaryDirectory() as name:
        base, mine = render(Path(name, "template"), "--vcs-ref", ":current:"), Path(name, "project")
        for path in list_files(base):
            if Path(path).is_file():
                copy(Path(path), mine / path)
        compare(base, mine)


def update(options: Namespace) -> None:
    """Show what changes, change it, and tell of conflicts and of edits that are lost."""
    require_clean_tree()
    answers = [f"--data={answer}" for answer in options.data]
    version = [f"--vcs-ref={options.vcs_ref}"] if options.vcs_ref else []
    with TemporaryDirectory() as name:
        old = render(Path(name, "old"), "--vcs-ref", ":current:")
        new = render(Path(name, "new"), *version, *answers)
        compare(old, new, "--stat", "--summary")
        gone = set(list_files(old)) - set(list_files(new))
        mine = {path: Path(path).read_bytes() for path in sorted(gone) if Path(path).is_file()}
        copier("update", "--defaults", f"--conflict={options.conflict}", *version, *answers)
        for path, text in mine.items():
            if text != (old / path).read_bytes() and not Path(path).exists():
                before = (old / path).read_text(errors="replace").splitlines()
                print_lost_lines(path, before, text.decode(errors="replace").splitlines())
    conflicts = sorted(find_conflicts())
    if conflicts:
        rejected = "\n  ".join(["The update has conflicts. Resolve them, then commit:", *conflicts])
        raise TemplateError(rejected)
    print("The update has no conflicts. Read the difference, run the checks, and commit.")


def require_clean_tree() -> None:
    """Raise unless Git can give back what the update changes."""
    try:
        status = git("status", "--porcelain", "--", ".")
    except subprocess.CalledProcessError:
        raise TemplateError(
            "This is not a Git repository, so an update could not be undone. "
            "Run `git init`, and commit what there is."
        ) from None
    if status:
        raise TemplateError(f"Commit or stash these changes first, then update:\n{status}")


def render(folder: Path, *options: str) -> Path:
    """Render this project's answers into a folder, without what is never the template's again."""
    folder.mkdir()
    shutil.copy(require(Path(ANSWERS)), folder)
    copier("recopy", "--defaults", "--overwrite", "--quiet", *options, str(folder))
    for path in {ANSWERS, *SEEDS}:
        (folder / path).unlink(missing_ok=True)
    return folder


def require(answers: Path) -> Path:
    if not answers.exists():
        raise TemplateError(f"There is no {answers}: run this in the folder of the project.")
    text = answers.read_text()
    if "\n_commit: " not in text:
        raise TemplateError(f"{answers} has no _commit, so the version of the template is unknown.")
    [source] = re.findall(r"^_src_path: ['\"]?(.+?)['\"]?$", text, re.MULTILINE)
    is_absolute = re.match(r"[/~]|[\w.+@-]+:", source)
    if not is_absolute or Path(source).expanduser().resolve() == Path.cwd():
        raise TemplateError(
            f"{answers} says that the template is at {source}, which is not its place as seen from "
            "this project. Write its URL or its absolute path there, as _src_path, and commit it."
        )
    return answers


def copier(*arguments: str) -> None:
    quiet = subprocess.PIPE if "--quiet" in arguments else None
    done = subprocess.run([*COPIER, *arguments], stderr=quiet, text=True)
    if done.returncode:
        reason = (done.stderr or "").strip().splitlines()[-1:]
        raise TemplateError("\n".join(["Copier cannot use the template, see above.", *reason]))


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def compare(old: Path, new: Path, *options: str) -> None:
    """Print a difference, with paths as they are in the project."""
    new.mkdir(exist_ok=True)
    command = ["git", "diff", "--no-index", "--no-prefix", *options, old.name, new.name]
    subprocess.run(command, cwd=old.parent)


def list_files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def find_conflicts() -> Iterator[str]:
    """Find the files that Copier could not merge: with markers in them, or with a `.rej` beside."""
    changed = git("diff", "-z", "--name-only", "--relative", "--diff-filter=d", "HEAD", "--", ".")
    added = git("ls-files", "-z", "--others", "--exclude-standard", "--", ".")
    for path in {*changed.split("\0"), *added.split("\0")} - {""}:
        if Path(path).is_file() and MARKER in b"\n" + Path(path).read_bytes():
            yield path
    # Git may have been told to ignore them.
    yield from filter(None, git("ls-files", "-z", "--others", "--", "*.rej").split("\0"))


def print_lost_lines(path: str, before: list[str], after: list[str]) -> None:
    print(f"The template has deleted {path}, and with it these lines of yours:")
    for line in ndiff(before, after):
        if line.startswith("+ "):
            print(f"  {line.removeprefix('+ ')}")
    print(f"`git show HEAD:./{path}` has all of it.")


if __name__ == "__main__":
    sys.exit(main())
