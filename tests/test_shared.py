"""Tests of what the other tests share."""

import subprocess
import sys
from pathlib import Path

from breakable import Process

GROUPED = """
import os
import pytest

@pytest.mark.parametrize("group", [pytest.param(name, marks=pytest.mark.xdist_group(name))
                                   for name in ("a", "b", "c") * 4])
def test_group(group):
    with open(group, "a") as file:
        print(os.getpid(), file=file)
"""


def test_the_tests_of_a_group_run_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_groups.py").write_text(GROUPED)
    options = ("--numprocesses=2", "--dist=loadgroup", "-p", "no:cacheprovider")
    subprocess.run([sys.executable, "-m", "pytest", *options], cwd=tmp_path, check=True)
    for group in ("a", "b", "c"):
        processes = (tmp_path / group).read_text().split()
        assert len(processes) == 4
        assert len({*processes}) == 1


LINES = r"""printf '{"event": "complete"}\n{"event": "incompl'"""


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    (project := tmp_path / "project").mkdir()
    process = Process(project, {"AUTH_SECRET": "secret"}, runner=("sh", "-c", LINES))
    assert process.process.wait() == 0
    assert process.events() == [{"event": "complete"}]
