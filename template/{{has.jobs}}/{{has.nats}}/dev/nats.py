"""A real NATS for development and tests. It needs neither Docker nor an installed server.

The first process that uses a folder starts a keeper: this file, run as a script. The keeper starts
the server, and stops it when all users have left or died. The folder of a server contains:

    jetstream/     the streams
    configuration  the address and the password
    password       the password
    log            output of the server since its start; locked while the server or its keeper runs
    users          locked by every user, shared
"""

import re
import secrets
import shutil
import socket
import sys
import sysconfig
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from tempfile import mkdtemp
from typing import IO

PROGRAM = "nats-server"
HOST = "127.0.0.1"
# The server chooses a free port.
CONFIGURATION = """
listen: "127.0.0.1:-1"
authorization { user: jobs, password: "PASSWORD" }
"""


class NatsError(Exception):
    """NATS cannot be used. The text says why, and what to do."""


@contextmanager
def running(data: Path | None = None) -> Generator[str]:
    """Yield the URL of a server, which is stopped afterwards, or when this process dies.

    With `data`, its streams are kept in that folder, and all processes that use the folder share
    the server. Otherwise they are deleted. Raise `NatsError` if the server cannot be started.
    """
    program = find_program()
    folder = data.absolute() if data else Path(mkdtemp(prefix="nats-"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        users = (folder / "users").open("ab")
    except OSError as error:
        raise NatsError(f"NATS cannot use {error.filename}: {error.strerror}.") from None
    keeper = None
    with users:
        flock(users, LOCK_SH)
        try:
            url, keeper = join_or_start(program, folder, is_temporary=not data)
            yield url
        finally:
            is_last = try_lock(users)
            flock(users, LOCK_UN)  # Closing is not enough: a forked child may hold the file open.
            if keeper and is_last:
                with suppress(TimeoutExpired):  # Another process may have joined just now.
                    keeper.wait(timeout=10)
            if not data:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def development_nats() -> Generator[dict[str, str]]:
    """Run a server whose streams are kept in `.local/`, and yield its URL as a variable."""
    try:
        with running(Path(".local/nats")) as url:
            yield {"JOBS_NATS_URL": url}
    except NatsError as error:
        sys.exit(str(error))


def find_program() -> str:
    """Return the path of the server. The one of the wheel comes before an installed one.

    Raise `NatsError` if there is neither.
    """
    for folders in (sysconfig.get_path("scripts"), None):  # None means PATH.
        if path := shutil.which(PROGRAM, path=folders):
            return path
    raise NatsError(
        "There is no NATS here. Set JOBS_NATS_URL to the URL of a server, or install one (apt "
        "install nats-server, brew install nats-server) and try again."
    )


def join_or_start(
    program: str, folder: Path, *, is_temporary: bool
) -> tuple[str, Popen[bytes] | None]:
    """Return the URL of the server of a folder, and its keeper if this process has started it."""
    keeper = None
    while True:
        with (folder / "log").open("a+b") as log:
            if try_lock(log):  # No server is running.
                if keeper:
                    keeper.wait()
                    output = (folder / "log").read_text(errors="replace")
                    raise NatsError(f"NATS does not start in {folder}:\n{output[-2000:]}")
                keeper = start(program, folder, log, is_temporary=is_temporary)
        if url := find_url(folder):
            return url, keeper
        time.sleep(0.01)


def start(program: str, folder: Path, log: IO[bytes], *, is_temporary: bool) -> Popen[bytes]:
    log.truncate(0)
    password = secrets.token_hex(16)
    (folder / "password").write_text(password)
    (folder / "configuration").write_text(CONFIGURATION.replace("PASSWORD", password))
    # Isolated and without site-packages: the keeper starts fast and imports nothing of the project.
    script = [sys.executable, "-I", "-S", "-X", "utf8", __file__]
    return Popen(
        [*script, program, str(folder), *(["temporary"] if is_temporary else [])],
        stdin=DEVNULL,
        stdout=log,  # The open log keeps its lock.
        stderr=log,
        start_new_session=True,  # Ctrl-C must not stop the server before the application.
    )


def find_url(folder: Path) -> str | None:
    """Return the URL of a server that accepts connections."""
    log = (folder / "log").read_text(errors="replace")
    if listens := re.search(rf"Listening for client connections on {HOST}:(\d+)", log):
        port = int(listens[1])
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                password = (folder / "password").read_text()
                return f"nats://jobs:{password}@{HOST}:{port}"
    return None


def try_lock(file: IO[bytes]) -> bool:
    with suppress(BlockingIOError):
        flock(file, LOCK_EX | LOCK_NB)
        return True
    return False


def keep(program: str, folder: Path, *, is_temporary: bool) -> None:
    # On Linux, the server also stops when its keeper is killed.
    child = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py"))]
    options = ["--config", str(folder / "configuration"), "--jetstream", "--store_dir", str(folder)]
    with (
        (folder / "users").open("ab") as users,
        Popen([*child, program, *options]) as server,
    ):
        while server.poll() is None and not try_lock(users):
            time.sleep(0.05)
        server.terminate()
        server.wait()
        if is_temporary and try_lock(users):  # otherwise, a user reads why it did not start
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    keep(sys.argv[1], Path(sys.argv[2]), is_temporary="temporary" in sys.argv[3:])
