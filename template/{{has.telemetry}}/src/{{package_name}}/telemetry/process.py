"""Memory and processor time of the process."""

from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Observation
from psutil import Process

from .gauges import METER

PROCESS = Process()


def read_memory(options: CallbackOptions) -> Iterable[Observation]:
    return [Observation(PROCESS.memory_info().rss)]


def read_cpu_time(options: CallbackOptions) -> Iterable[Observation]:
    times = PROCESS.cpu_times()
    return [
        Observation(times.user, {"cpu.mode": "user"}),
        Observation(times.system, {"cpu.mode": "system"}),
    ]


def observe_process() -> None:
    METER.create_observable_up_down_counter(
        "process.memory.usage", [read_memory], "By", "Physical memory in use."
    )
    METER.create_observable_counter(
        "process.cpu.time", [read_cpu_time], "s", "Processor time that was used."
    )
