"""Compares a rendered service with minimal services that do the same work."""

import sys
from pathlib import Path

HERE = Path(__file__).parent

# Modules of the tests: `harness` renders projects, `postgres` runs the server from a wheel.
sys.path += [
    str(HERE.parent / "tests"),
    str(HERE.parent / "template" / "{{has.database}}" / "dev"),
]
