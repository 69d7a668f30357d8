from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import compile_once, take_snapshot
from jinja2.sandbox import SandboxedEnvironment
from releases import make_releases

# These tests run in rendered projects.
collect_ignore = ["grown", "recipes"]


def do_nothing(*_: object) -> None: ...


@pytest.fixture(scope="session", autouse=True)
def fast_copier() -> Iterator[None]:
    """Save two thirds of the time of a render, and two fifths of the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SandboxedEnvironment, "compile", compile_once)
        # It runs git for each file, and is for systems where files have no mode.
        patch.setattr("copier._main.Worker._sync_git_index_executable_bit", do_nothing)
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return take_snapshot(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this repository, with a tag for each release and for two future ones."""
    return make_releases(tmp_path_factory.mktemp("releases"))
