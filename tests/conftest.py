from pathlib import Path

import pytest
from harness import take_snapshot


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return take_snapshot(tmp_path_factory.mktemp("template"))
