from pathlib import Path

import pytest
from harness import take_snapshot
from releases import make_releases

# These tests run in rendered projects.
collect_ignore = ["grown", "recipes"]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return take_snapshot(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this repository, with a tag for each release and for two future ones."""
    return make_releases(tmp_path_factory.mktemp("releases"))
