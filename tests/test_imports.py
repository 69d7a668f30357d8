"""The direction of imports in rendered projects: frame, then features, then composition roots."""

from pathlib import Path

import pytest
from harness import ROWS, name, render, run

# The composition roots. No other module imports them.
ROOTS = ("app", "cli", "lifespan", "main", "settings")
CONTRACT = """
[importlinter]
root_package = {package}
include_external_packages = false

[importlinter:contract:direction]
name = Imports run one way
type = layers
containers = {package}
exhaustive = true
layers =
    {roots}
    {features}
    {frame}
ignore_imports =
    # `SettingsDep` gives an endpoint the `Settings` that a team extends.
    {package}.dependencies -> {package}.settings
"""


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_imports_run_one_way(template: Path, tmp_path: Path, row: dict[str, str]) -> None:
    project = render(template, tmp_path / "project", **row)
    [package] = (project / "src").iterdir()
    features = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert modules >= {*ROOTS}
    contract = CONTRACT.format(
        package=package.name,
        roots=" : ".join(ROOTS),
        features=" : ".join(sorted(features)),
        frame=" : ".join(sorted(modules - {*ROOTS})),
    )
    (tmp_path / "contract.ini").write_text(contract)
    command = ("lint-imports", "--no-cache", "--config", str(tmp_path / "contract.ini"))
    done = run(project, *command, PYTHONPATH=str(project / "src"))
    assert done.returncode == 0, done.stdout
