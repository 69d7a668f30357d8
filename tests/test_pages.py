"""Links, paths, tasks and messages in the pages of this repository exist."""

import re
import tomllib
from pathlib import Path

import copier
import pytest
from harness import ROOT, SOURCES, render

PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md"))
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def list_anchors(page: Path) -> set[str]:
    """List the anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(template, tmp_path_factory.mktemp("project") / "rendered")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_link_targets_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text())):
        if re.match(r"https?://|\.\./\.\./tree/", link):  # external links, and paths of GitHub
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in list_anchors(target), link


# docs/architecture.md names sources of the template.
GUIDES = [page for page in PAGES if page.parent.name == "docs" and page.stem != "architecture"]
PATH = re.compile(r"`([\w./-]+/|[\w./-]*\.(?:py|md|toml|yml|yaml|example|development))`")
OF_DEVELOPERS = {".env", ".local"}


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_paths_that_guides_name_exist(project: Path, guide: Path) -> None:
    text = FENCED.sub("", guide.read_text())
    there = {path.relative_to(project) for path in project.rglob("*")}
    written = {Path(path) for path in re.findall(r"`([\w./]+)`:$", text, re.MULTILINE)}
    there |= written | {Path(path) for path in OF_DEVELOPERS}
    for path in map(Path, PATH.findall(text)):
        is_name = len(path.parts) == 1  # file names without a folder
        names = {known.name for known in there}
        assert path in there or (is_name and path.name in names) or (ROOT / path).exists(), path


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_tasks_that_guides_name_exist(project: Path, guide: Path) -> None:
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    text = guide.read_text()
    assert {*re.findall(r"\bpoe ([a-z-]+)", text)} <= pyproject["tool"]["poe"]["tasks"].keys()


def test_messages_in_the_docs_exist_in_the_template() -> None:
    """Find each message in the sources. The dots stand for any text."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    own, libraries = page.split("\n## Messages of libraries\n")
    assert libraries.count("\n### ") == 3
    messages = re.findall(r"^### `(.+)`$", own, re.MULTILINE)
    assert len(messages) == own.count("\n### ")
    sources = [*SOURCES, ROOT / "copier.yml", Path(copier.__file__).with_name("_template.py")]
    text = "\n".join(path.read_text() for path in sources)
    text = re.sub(r"[\"']\s*\n\s*f?[\"']", "", text).replace("`", "").replace("\\", "")
    parts = [part.strip() for message in messages for part in message.split("…")]
    assert [part for part in parts if part not in text] == []
