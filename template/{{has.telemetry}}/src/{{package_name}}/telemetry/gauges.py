"""Metrics whose values are read when they are exported, such as the length of a queue."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Literal

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

METER = get_meter(__package__ or "")

Source = Callable[[], Iterable[Observation]]


class Gauge:
    """A metric that lives as long as the process. What it shows may end before.

    The sources are called in another thread than that of the event loop.
    """

    def __init__(
        self, name: str, kind: Literal["sum", "gauge"], *, unit: str, description: str
    ) -> None:
        create = METER.create_observable_gauge
        if kind == "sum":  # values of several processes can be added
            create = METER.create_observable_up_down_counter
        self._sources: list[Source] = []
        create(name, [self._read], unit, description)

    def _read(self, options: CallbackOptions) -> Iterable[Observation]:
        return [observation for source in [*self._sources] for observation in source()]

    @contextmanager
    def observe(self, source: Source) -> Generator[None]:
        self._sources.append(source)
        try:
            yield
        finally:
            self._sources.remove(source)
