"""The files around the code, checked with the tools that read them."""

import json
import re
import shutil
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from harness import (
    ROOT,
    ROWS,
    UV,
    choose_rows,
    find_questions,
    git,
    name,
    render,
    run,
    succeed,
)
from postgres import make_grants

# Files with a published schema.
SCHEMAS = {
    "compose.yaml": "compose-spec",
    ".github/dependabot.yml": "dependabot",
    ".github/workflows/*.yml": "github-workflows",
    ".gitlab-ci.yml": "gitlab-ci",
    "renovate.json": "renovate",
}
TOOLS = {
    # DL3025: the health check needs a shell.
    "hadolint": "hadolint --ignore=DL3025 Dockerfile",
    "Compose": "docker-compose config --quiet",
}


@pytest.fixture(params=ROWS, ids=name)
def project(request: pytest.FixtureRequest, template: Path, tmp_path: Path) -> Path:
    return render(template, tmp_path / "project", **request.param)


def read_yaml(path: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(path.read_text()))


def test_documents_fit_their_schemas(project: Path) -> None:
    patterns = set()
    for pattern, schema in SCHEMAS.items():
        for path in project.glob(pattern):
            done = run(project, "check-jsonschema", f"--builtin-schema=vendor.{schema}", str(path))
            assert done.returncode == 0, done.stdout
            patterns.add(pattern)
    ci = read_yaml(project / ".copier-answers.yml")["ci"]
    assert "compose.yaml" in patterns
    assert len(patterns) == (1 if ci == "none" else 3)


def test_workflows_are_safe(template: Path, tmp_path: Path) -> None:
    rows = choose_rows(*find_questions(".github/*"), strength=1)
    folders = [render(template, tmp_path / name(row), **row | {"ci": "github"}) for row in rows]
    actions: dict[str, set[str]] = {}
    for folder in [ROOT, *folders]:
        done = run(folder, "zizmor", "--offline", "--quiet", "--no-progress", ".github")
        assert done.returncode == 0, done.stdout
        for path in (folder / ".github" / "workflows").iterdir():
            document = read_yaml(path)
            assert document["permissions"] == {}
            for job in document["jobs"].values():
                assert job["permissions"] == {"contents": "read"}
            for action, version in re.findall(r"uses: (\S+)@(.*)", path.read_text()):
                assert re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", version)
                actions.setdefault(action, set()).add(version)
    assert actions
    assert all(len(versions) == 1 for versions in actions.values())


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_report_no_problem(project: Path, tool: str) -> None:
    secrets = re.findall(r"\$\{(\w+)", (project / "compose.yaml").read_text())
    succeed(project, "sh", "-c", TOOLS[tool], **dict.fromkeys(secrets, "x"))


@pytest.mark.skipif(not shutil.which("actionlint"), reason="actionlint has no wheel")
def test_actionlint_reports_no_problem(project: Path) -> None:
    git(project, "init")  # actionlint looks for workflows in a repository
    succeed(project, "sh", "-c", "if [ -d .github ]; then actionlint; fi")


def test_github_and_gitlab_run_the_same_commands(template: Path, tmp_path: Path) -> None:
    for row in choose_rows(*find_questions(".github/*", ".gitlab-ci.yml")):
        folder = tmp_path / name(row)
        project = render(template, folder / "github", **row | {"ci": "github"})
        github = read_yaml(project / ".github/workflows/ci.yml")
        other = render(template, folder / "gitlab", **row | {"ci": "gitlab"})
        gitlab = read_yaml(other / ".gitlab-ci.yml")
        upgrade, *steps = (s["run"] for s in github["jobs"]["test"]["steps"] if "run" in s)
        assert gitlab["test"]["script"] == steps
        assert gitlab["dependencies"]["before_script"] == [upgrade]
        assert steps[-2:] == ["uv run poe check", "uv run poe test"]
        services = github["jobs"]["test"].get("services", {}).values()
        assert gitlab["test"].get("services", []) == [service["image"] for service in services]


class Osv(BaseHTTPRequestHandler):
    """Stands for https://osv.dev, with one vulnerability of click."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        names = [query["package"]["name"] for query in body["queries"]]
        result = {"vulns": [{"id": "PYSEC-1", "modified": "2026-01-01T00:00:00Z"}]}
        self.answer({"results": [result if name == "click" else {} for name in names]})

    def do_GET(self) -> None:
        self.answer({"id": "PYSEC-1", "modified": "2026-01-01T00:00:00Z", "affected": []})

    def answer(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_ci_fails_for_a_dependency_with_a_known_vulnerability(
    template: Path, tmp_path: Path
) -> None:
    github = render(template, tmp_path / "github", ci="github")
    workflow = read_yaml(github / ".github/workflows/vulnerabilities.yml")
    [command] = [step["run"] for step in workflow["jobs"]["audit"]["steps"] if "run" in step]
    gitlab = render(template, tmp_path / "gitlab", ci="gitlab")
    assert read_yaml(gitlab / ".gitlab-ci.yml")["vulnerabilities"]["script"] == [command]
    succeed(github, UV, "lock")
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        service = f"--service-url=http://127.0.0.1:{server.server_port}"
        done = run(github, "sh", "-c", f"{command} {service}")
        assert done.returncode == 1
        assert "has 1 known vulnerability" in done.stdout
        assert "warning" not in done.stdout
        option = "--ignore=PYSEC-1"
        assert "no known vulnerabilities" in succeed(
            github, "sh", "-c", f"{command} {service} {option}"
        )
        server.shutdown()


def test_compose_reports_each_missing_secret(project: Path) -> None:
    text = (project / "compose.yaml").read_text()
    variables = set(re.findall(r"\$\{(\w+)", text))
    assert variables == set(re.findall(r"\$\{(\w+):\?is missing, see docs/operations.md\}", text))
    start = (project / "docs" / "operations.md").read_text().split("## Settings")[0]
    documented = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", start))
    example = (project / ".env.example").read_text()
    assert documented - set(re.findall(r"^(\w+)=.", example, re.MULTILINE)) == variables


def select_own(services: dict[str, Any]) -> list[dict[str, Any]]:
    """Select the services that run the image of the project."""
    return [service for service in services.values() if "build" in service]


def test_compose_limits_what_services_may_do(project: Path) -> None:
    services = read_yaml(project / "compose.yaml")["services"]
    for service in select_own(services):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for service in services.values():
        assert service["mem_limit"]
        assert service["pids_limit"]
    assert services["service"]["ports"] == ["127.0.0.1:8000:8000"]
    assert services.get("migrate", {}).get("environment", {}).keys() <= {
        "DATABASE_TLS",
        "DATABASE_URL",
    }
    assert services["service"]["restart"] == "unless-stopped"
    (package,) = (project / "src").iterdir()
    code = (package / "cli.py").read_text() + (package / "server.py").read_text()
    grace = re.findall(r'"--grace",\s+default=(\d+)|^CLOSING = (\d+)', code, re.MULTILINE)
    # `serve` and `work` have the same grace.
    seconds = sum(int(number) for numbers in {*grace} for number in numbers if number)
    for service in (services["service"], services.get("worker", services["service"])):
        assert seconds < int(service["stop_grace_period"].removesuffix("s"))


def test_the_service_has_the_same_rights_in_development_and_tests(
    template: Path, tmp_path: Path
) -> None:
    compose = read_yaml(render(template, tmp_path / "project") / "compose.yaml")
    statements = [
        " ".join(part.split()) for part in compose["configs"]["roles"]["content"].split(";")
    ]
    grants = [statement for statement in statements if "GRANT" in statement]
    expected = make_grants("owner", "app", "app")
    assert grants == [statement for statement in expected if "GRANT" in statement]
    assert {*expected} <= {*statements}


def test_the_image_copies_existing_files(project: Path) -> None:
    dockerfile = (project / "Dockerfile").read_text()
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    sources = {source for line in lines for source in line.split()}
    assert sources >= {"pyproject.toml", "uv.lock", "README.md", "src"}
    assert ("migrations" in sources) == (project / "migrations").exists()
    for source in sources - {"uv.lock"}:
        assert (project / source).exists()
    patterns = re.findall(r"^!(.+)$", (project / ".dockerignore").read_text(), re.MULTILINE)
    assert sources == set(patterns)
    scripts = tomllib.loads((project / "pyproject.toml").read_text())["project"]["scripts"]
    commands = re.findall(r'^CMD \["([\w-]+)", "serve"', dockerfile, re.MULTILINE)
    services = select_own(read_yaml(project / "compose.yaml")["services"])
    commands += [service["command"][0] for service in services if "command" in service]
    assert set(commands) == set(scripts)


def test_versions_are_the_same_everywhere(project: Path) -> None:
    files = ["Dockerfile", "compose.yaml", ".gitlab-ci.yml", ".github/workflows/ci.yml"]
    text = "".join((project / file).read_text() for file in files if (project / file).exists())
    assert len(set(re.findall(r"astral-sh/uv:([\d.]+)", text))) == 1
    assert len(set(re.findall(r"postgres:([\w.-]+)", text))) <= 1
    images = set(re.findall(r"python:([\d.]+)-slim", text))
    assert len(images) == 1
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    oldest = pyproject["project"]["requires-python"].removeprefix(">=")
    for matrix in re.findall(r"\bpython: (\[.+\])", text, re.IGNORECASE):
        assert yaml.safe_load(matrix) == [oldest, *images]


def test_the_page_about_operations_lists_each_setting(project: Path) -> None:
    page = (project / "docs" / "operations.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", page, re.MULTILINE))
    defaults = dict(
        re.findall(r"^(\w+)=(.*)$", (project / ".env.example").read_text(), re.MULTILINE)
    )
    assert documented.keys() == defaults.keys() | {"FORWARDED_ALLOW_IPS", "LISTEN_HOST", "PORT"}
    for variable, default in defaults.items():
        words = {"none", "required", "that of the writer"} if not default else {f"`{default}`"}
        assert documented[variable] in words, variable


def test_the_message_after_a_copy_has_three_commands(template: Path, tmp_path: Path) -> None:
    command = ["copier", "copy", "--defaults", str(template), "My Service"]
    output = run(tmp_path, *command).stdout
    commands = re.split("create.+\n", output)[-1].strip().splitlines()
    assert len(commands) == 3, output
    script = " && ".join(commands[:2])
    fields = product(("AUTHOR", "COMMITTER"), ("NAME", "EMAIL"))
    identity = {f"GIT_{role}_{field}": "ada@example.com" for role, field in fields}
    done = run(tmp_path, "sh", "-c", f"{script} && git status --porcelain && git log", **identity)
    assert done.returncode == 0, done.stdout
    assert commands[2] == "uv run poe dev"
    branch = git(tmp_path / "My Service", "branch", "--show-current").strip()
    workflow = (tmp_path / "My Service" / ".github" / "workflows" / "ci.yml").read_text()
    assert f"branches: [{branch}]" in workflow


def test_the_template_is_checked_as_its_readme_says() -> None:
    job = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["nox"]
    assert {"run": "bash .ci/run"} in job["steps"]
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = pyproject["project"]["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"][0] == oldest
