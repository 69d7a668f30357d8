"""The metrics that the docs of a project list, and their names in Prometheus."""

import re
from pathlib import Path
from typing import NamedTuple

ROW = re.compile(r"^\| `(.+?)` \| `(.+?)` \| (.+?) \| (.+?) \|", re.MULTILINE)
UNITS = {"s": "seconds", "By": "bytes"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


class Metric(NamedTuple):
    name: str
    unit: str
    kind: str  # histogram, counter or gauge
    attributes: frozenset[str]

    def list_series(self) -> dict[str, set[str]]:
        """Return the names of its series in Prometheus, each with its labels."""
        # A unit in braces is a comment.
        unit = "" if self.unit.startswith("{") else f"_{UNITS[self.unit]}"
        name = self.name.replace(".", "_") + unit
        labels = {attribute.replace(".", "_") for attribute in self.attributes}
        return {
            name + suffix: labels | ({"le"} if suffix == "_bucket" else set())
            for suffix in SUFFIXES[self.kind]
        }


def read_metrics(project: Path) -> list[Metric]:
    """Read the table in docs/operations.md."""
    page = (project / "docs" / "operations.md").read_text()
    section = page.split("\n## Metrics\n")[1].split("\n## ")[0]
    return [
        Metric(name, unit, find_kind(meaning), frozenset(re.findall(r"`(.+?)`", attributes)))
        for name, unit, attributes, meaning in ROW.findall(section)
    ]


def find_kind(meaning: str) -> str:
    kinds = re.findall(r"^a (histogram|counter)\b", meaning)
    return kinds[0] if kinds else "gauge"
