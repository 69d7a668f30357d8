"""Traces and metrics with OpenTelemetry: `traced` and `start_span` add spans."""

from .spans import start_span as start_span
from .spans import traced as traced
