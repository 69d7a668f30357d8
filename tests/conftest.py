from pathlib import Path

import pytest
from harness import take_snapshot
from releases import make_releases

# They run in a project.
collect_ignore = ["grown", "recipes"]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return take_snapshot(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The history of this repository in a clone, with a tag for each release, and two to come."""
    return make_releases(tmp_path_factory.mktemp("releases"))
