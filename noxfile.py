"""The checks that developers and CI run: `uvx nox`, or `uvx nox -s lint` for one session."""

import nox

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.stop_on_first_error = True

UPDATES = ("tests/test_update.py", "tests/test_template_tasks.py", "tests/test_live.py")
PROJECTS = (
    "tests/test_project.py",
    "tests/test_seams.py",
    "tests/test_grown.py",
    "tests/test_recipes.py",
    "tests/test_image.py",
    "tests/test_newcomer.py",
    "tests/test_clients.py",
)
EXAMPLES: dict[str, dict[str, str]] = {
    "default": {},
    "oidc": {"auth": "oidc"},
    "minimal": {"database": "none", "auth": "none", "ci": "none"},
}
FAULTS = (
    "tests/test_jobs.py",  # first: two groups that take minutes
    "tests/test_faults.py",
    "tests/test_cache.py",
    "tests/test_mail.py",
    "tests/test_organizations.py",
    "tests/test_hostile.py",
    "tests/test_streams.py",
    "tests/test_telemetry.py",
)
CLUSTERS = ("tests/test_cluster.py",)


def run(session: nox.Session, *command: str) -> None:
    """Run a command in an environment with the versions in uv.lock."""
    environment = {"UV_PROJECT_ENVIRONMENT": session.virtualenv.location}
    session.run("uv", "run", "--locked", "--quiet", *command, *session.posargs, env=environment)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the format, the lint and the types of the sources."""
    run(session, "ruff", "format", "--check")
    run(session, "ruff", "check")
    run(session, "pyrefly", "check")


@nox.session
def tests(session: nox.Session) -> None:
    """Test the questions, rendered files, the sources, and the launcher of PostgreSQL."""
    others = (*PROJECTS, *UPDATES, *FAULTS, *CLUSTERS)
    run(
        session,
        "pytest",
        "--numprocesses=2",
        "--dist=loadgroup",
        *(f"--ignore={path}" for path in others),
    )


@nox.session
def updates(session: nox.Session) -> None:
    """Test updates from each release, the update tasks of projects, and databases with data."""
    run(session, "pytest", "--numprocesses=4", *UPDATES)


@nox.session
def faults(session: nox.Session) -> None:
    """Test services while their servers fail, under overload, and with malformed requests."""
    options = ("--dist=loadgroup", "--no-loadscope-reorder")
    run(session, "pytest", "--numprocesses=4", *options, *FAULTS)


@nox.session(default=False)
def crashes(session: nox.Session) -> None:
    """Kill, stop and block the workers of jobs, and their servers, twenty times."""
    session.env["ROUNDS"] = "20"
    run(session, "pytest", "--numprocesses=6", "--dist=loadgroup", "tests/test_jobs.py")


@nox.session(default=False)
def cluster(session: nox.Session) -> None:
    """Kill servers of a NATS cluster while workers run jobs."""
    run(session, "pytest", *CLUSTERS)


@nox.session
def projects(session: nox.Session) -> None:
    """Render projects, and run their checks, tests, servers, images and generated clients."""
    run(session, "pytest", "--numprocesses=3", "--dist=loadgroup", *PROJECTS)


@nox.session(default=False)
def picture(session: nox.Session) -> None:
    """Record the pictures of the README: a session, and the interactive docs in a browser."""
    run(session, "python", "pictures/record.py")
    run(session, "python", "pictures/docs.py")


@nox.session(default=False)
def examples(session: nox.Session) -> None:
    """Render the examples into examples/, for the branch to which the README links."""
    for name, answers in EXAMPLES.items():
        data = [f"--data={question}={value}" for question, value in answers.items()]
        copy = ["copier", "copy", "--quiet", "--defaults", "--vcs-ref=HEAD", "--overwrite", *data]
        run(session, *copy, ".", f"examples/{name}")


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Compare a rendered service with minimal services, and write benchmarks/README.md."""
    run(session, "python", "-m", "benchmarks")
