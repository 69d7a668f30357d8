"""Measures what the template renders beside the least that could do the same work."""

import sys
from pathlib import Path

HERE = Path(__file__).parent

# What the tests share: the renderer of projects, and the PostgreSQL that comes from a wheel.
sys.path += [
    str(HERE.parent / "tests"),
    str(HERE.parent / "template" / "{{has.database}}" / "dev"),
]
