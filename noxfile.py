"""What people and CI run: `uvx nox`, or `uvx nox -s lint` for one session."""

import nox

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.stop_on_first_error = True


def install(session: nox.Session) -> None:
    """Install what uv.lock says into the session's own environment."""
    session.run_install(
        "uv", "sync", "--locked", "--quiet", env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location}
    )
