"""Runs the service as a process."""

import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2


class Service(NamedTuple):
    process: subprocess.Popen[bytes]
    url: str
    log: Path


@contextmanager
def serving(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Generator[Service]:
    """Serve on a free port until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with (
        log.open("wb") as output,
        subprocess.Popen([*command, f"--port={port}"], env=environment, stdout=output) as process,
    ):
        service = Service(process, f"http://127.0.0.1:{port}", log)
        try:
            wait_for(service)
            yield service
        finally:
            process.kill()


def wait_for(service: Service) -> None:
    for _ in range(300):
        try:
            httpx2.get(f"{service.url}/health/live")
        except httpx2.ConnectError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"The service does not start:\n{service.log.read_text()}")
