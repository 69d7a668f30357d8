"""The kinds of work, and their measurement."""

import subprocess
import time
from dataclasses import dataclass

from . import HERE
from .servers import PASSWORD, Bench, Server

FORM = f"grant_type=password&username=user{{user}}@example.com&password={PASSWORD}"


@dataclass(frozen=True)
class Work:
    name: str
    path: str
    method: str = "GET"
    body: str = ""
    status: int = 200
    goal: float | None = None  # as a part of the floor's rate
    patience: int = 1  # factor of the duration

    @property
    def type(self) -> str:
        return "application/x-www-form-urlencoded" if "&" in self.body else "application/json"


WORKS = [
    Work("health", "/health/live", goal=0.45),
    Work("claims", "/v1/claims", goal=0.50),
    Work("caller", "/v1/auth/me", goal=0.40),
    Work("list", "/v1/items?limit=20", goal=0.40),
    Work("read", "/v1/items/{item}"),
    Work("create", "/v1/items", "POST", '{"name": "new {number}"}', 201, goal=0.40),
    Work("update", "/v1/items/{item}", "PATCH", '{"name": "item {number}"}'),
    Work("sign in", "/v1/auth/token", "POST", FORM, patience=5),
    Work("422", "/v1/items", "POST", '{"name": ""}', 422),
]
WORK = {work.name: work for work in WORKS}


@dataclass(frozen=True)
class Sample:
    """The measurement of one kind of work. Invalid if it has errors."""

    server: str
    work: str
    connections: int
    rate: float  # per second
    cpu: float  # microseconds of the server per request
    p50: float  # milliseconds
    p99: float
    errors: int

    @property
    def tail(self) -> float:
        """p99 as a multiple of the mean latency, which is derived from the rate."""
        return self.p99 / (self.connections * 1000 / self.rate)


def launch(
    bench: Bench, server: Server, work: Work, connections: int, seconds: int
) -> subprocess.Popen[str]:
    headers = {"Authorization": f"Bearer {bench.token}", "Content-Type": work.type}
    command = [
        *("wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s"),
        *("--timeout=60s", f"--script={HERE / 'load.lua'}"),
        *(f"--header={name}: {value}" for name, value in headers.items()),
        *(server.url, "--", str(work.status), work.method, work.path, work.body, str(bench.ids)),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measure(bench: Bench, server: Server, work: Work, connections: int, seconds: int) -> Sample:
    """Send as many requests as the server can handle."""
    start = server.processor_time
    load = launch(bench, server, work, connections, seconds * work.patience)
    output = load.communicate()[0]
    cpu_time = server.processor_time - start
    settle(server)
    count, duration, p50, p99, errors = map(float, output.splitlines()[-1].split())
    return Sample(
        server=server.name,
        work=work.name,
        connections=connections,
        rate=count / duration,
        cpu=cpu_time / max(count, 1) * 1e6,
        p50=p50,
        p99=p99,
        errors=int(errors) if count else 1,
    )


def settle(server: Server) -> None:
    """Wait until work of abandoned requests is done, such as hashing passwords."""
    previous = -1.0
    while server.processor_time > previous:
        previous = server.processor_time
        time.sleep(0.05)
