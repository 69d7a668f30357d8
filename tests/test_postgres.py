"""dev/postgres.py of a rendered project: real servers, real signals, no files left behind."""

import errno
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import mkdtemp

import postgres
import pytest
from harness import ROOT, eventually, git, list_releases
from postgres import PostgresError, find_binaries, running

PSQL = find_binaries() / "psql"
MODULE = Path(postgres.__file__)
USER = """
import sys
from pathlib import Path
from postgres import PostgresError, running

try:
    with running(*map(Path, sys.argv[1:])) as url:
        print(url, flush=True)
        sys.stdin.readline()
except PostgresError as error:
    print("PostgresError:", error)
"""
FORKING_USER = """
import os, sys, time
from pathlib import Path
from postgres import running

with running(Path(sys.argv[1])):
    child = os.fork()
    if not child:
        time.sleep(60)
os.kill(child, 9)
"""
RIGHTS = """select count(*) from pg_roles where rolname = current_user
    and (rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls)"""
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def processes(place: Path) -> dict[int, str]:
    """Find processes that run in a folder, or use it for temporary files."""
    commands = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environment = (process / "environ").read_text(errors="replace")
            if f"TMPDIR={place}" in environment or (process / "cwd").readlink().is_relative_to(
                place
            ):
                commands[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
    return commands


def kill_guards(temporary: Path) -> None:
    guards = [pid for pid, line in processes(temporary).items() if "postgres.py" in line]
    assert guards
    for guard in guards:
        os.kill(guard, signal.SIGKILL)


def ask(url: str, question: str) -> str:
    done = subprocess.run(
        [PSQL, "-Atqc", question, url],
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout or done.stderr).strip()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "temporary files"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert processes(tmp_path) == {}
    assert list(folder.iterdir()) == []


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "dätä of mine" / "postgres"


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Yield a folder that each user may enter, with copies of the module and of the wheel."""
    place = Path(mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    shutil.copy(MODULE, place)
    wheel = find_binaries().parents[1]
    for package in wheel.parent.glob(f"{wheel.name}*"):
        if package.suffix != ".dist-info":
            shutil.copytree(package, place / package.name)
    for path in (place, *place.rglob("*")):
        path.chmod(0o755)
    yield place
    assert processes(place) == {}
    shutil.rmtree(place)


class User:
    """A process that uses a server until it exits or is killed."""

    def __init__(
        self,
        *arguments: Path,
        project: Path = MODULE.parent,
        uid: int | None = None,
        code: str = USER,
    ) -> None:
        python = "/usr/bin/python3" if uid else sys.executable
        self.process = subprocess.Popen(
            [python, "-W", "error", "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=project,
            user=uid,
            group=uid,
            extra_groups=[] if uid else None,
            start_new_session=True,
        )
        assert self.process.stdout
        self.said = self.process.stdout.readline().strip()

    def leave(self) -> str:
        return "".join(self.process.communicate("\n", timeout=20))

    def signal(self, number: signal.Signals) -> str:
        os.killpg(self.process.pid, number)
        return "".join(self.process.communicate(timeout=20))


def test_temporary_server(temporary: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with running() as url:
        assert url.endswith("/app_test")
        assert (
            ask(url, "create table t (i int); select lower('É'), current_setting('fsync')")
            == "é|off"
        )
        assert processes(temporary)
    assert processes(temporary) == {}
    assert list(temporary.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_data_is_kept(data: Path) -> None:
    with running(data) as url:
        assert url.endswith("/app")
        assert ask(url, "create table t as select 7 as i; show fsync") == "on"
    assert processes(data) == {}
    with running(data) as url:
        assert ask(url, "select i from t") == "7"
    assert [path.name for path in data.iterdir() if path.stat().st_mode & 0o077] == []


def test_the_error_of_the_block_is_raised(data: Path) -> None:
    with pytest.raises(ZeroDivisionError), running(data):
        raise ZeroDivisionError
    assert processes(data) == {}


def test_second_user_joins_and_first_leaves(data: Path) -> None:
    with ExitStack() as first, running(data) as url:
        assert first.enter_context(running(data)) == url
        user = User(data)
        first.close()
        assert ask(url, "select 1") == "1"
    assert user.said == url
    assert ask(url, "select 1") == "1"
    assert user.leave() == ""
    assert processes(data) == {}


def kill_user(temporary: Path, *arguments: Path) -> None:
    user = User(*arguments)
    assert ask(user.said, "create table t as select 7 as i; select i from t") == "7"
    user.signal(signal.SIGKILL)
    assert eventually(lambda: processes(temporary.parent) == {})
    assert eventually(lambda: list(temporary.iterdir()) == [])


def test_killed_user_of_a_temporary_server(temporary: Path) -> None:
    kill_user(temporary)


def test_killed_user_of_data(data: Path, temporary: Path) -> None:
    kill_user(temporary, data)
    with running(data) as url:
        assert ask(url, "select i from t") == "7"


def test_user_killed_during_the_first_start(data: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", USER, data], cwd=MODULE.parent)
    assert eventually((data / "cluster.new" / "base").exists)
    process.kill()
    process.wait()
    with running(data) as url:
        assert ask(url, "select 1") == "1"


def test_guard_killed_during_the_first_start(data: Path, temporary: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", USER, data], cwd=MODULE.parent)
    assert eventually((data / "cluster.new" / "base").exists)
    kill_guards(temporary)
    process.wait()
    with running(data) as url:
        assert ask(url, "select 1") == "1"
    assert not (data / "cluster.new").exists()


def test_interrupted_user(temporary: Path) -> None:
    problem = User().signal(signal.SIGINT)
    assert problem.rstrip().endswith("KeyboardInterrupt")
    assert list(temporary.iterdir()) == []
    assert eventually(lambda: processes(temporary.parent) == {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_terminated_user(temporary: Path, number: signal.Signals) -> None:
    assert User().signal(number) == ""
    assert eventually(lambda: processes(temporary.parent) == {})
    assert eventually(lambda: list(temporary.iterdir()) == [])


def test_forked_child_does_not_hold_up_its_parent(data: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", FORKING_USER, data], cwd=MODULE.parent, timeout=20, check=True
    )
    assert processes(data) == {}


def test_in_parallel_on_one_folder(data: Path) -> None:
    def visit(_: int) -> str:
        with running(data) as url:
            return ask(url, "select 1")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(visit, range(12))) == ["1"] * 12
    assert processes(data) == {}


def test_temporary_servers_in_parallel(temporary: Path) -> None:
    with ThreadPoolExecutor(3) as pool, ExitStack() as stack:
        urls = list(pool.map(stack.enter_context, [running() for _ in range(3)]))
        assert len(set(urls)) == 3
        assert [ask(url, "select 1") for url in urls] == ["1"] * 3
    assert processes(temporary) == {}


def test_connections_need_the_password(data: Path) -> None:
    with running(data) as url:
        password = url.split(":")[2].split("@")[0]
        app = url.replace("owner", "app", 1)
        for role in (url, app):
            assert ask(role, "select count(*) from pg_roles where rolcanlogin") == "3"
            assert ask(role, RIGHTS) == "0"
        assert "password authentication failed" in ask(url.replace(password, "wrong"), "select 1")
        nobody = url.replace(f"owner:{password}", "postgres:")
        assert "no password supplied" in ask(nobody, "select 1")
        administrator = url.replace(f"owner:{password}", f"postgres:{password}")
        assert "password authentication failed" in ask(administrator, "select 1")
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        for address, error in {"127.0.0.1": 0, "127.0.0.2": errno.ECONNREFUSED}.items():
            with socket.socket() as client:
                assert client.connect_ex((address, port)) == error


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A folder with the module of the first release. There, the role `app` owned everything."""
    path = "template/{% if has_database %}dev{% endif %}/postgres.py"
    (tmp_path / "earlier").mkdir()
    text = git(ROOT, "show", f"{list_releases()['0.1.0']}:{path}")
    (tmp_path / "earlier" / "postgres.py").write_text(text)
    return tmp_path / "earlier"


def test_data_of_an_earlier_release_gets_the_other_role(data: Path, earlier: Path) -> None:
    user = User(data, project=earlier)
    ask(user.said, "create table t (i serial); insert into t default values")
    ask(user.said, "create schema billing; create table billing.t (i serial)")
    with pytest.raises(PostgresError, match="An older version"), running(data):
        pass
    assert user.leave() == ""
    for _ in range(2):
        with running(data) as url:
            app = url.replace("owner", "app", 1)
            assert ask(app, "insert into t default values; select max(i) > 1 from t") == "t"
            assert "must be owner" in ask(app, "drop table t")
            ask(app, "insert into billing.t default values")
            assert ask(app, "select count(*) > 0 from billing.t") == "t"
            assert (
                ask(url, "create table n (i serial); drop table n; alter table t add j int") == ""
            )
            assert ask(url, "alter table t drop j") == ""
            assert ask(url, RIGHTS) == "0"
        (data / "roles").unlink()  # as if the first start had been interrupted at the end


def test_killed_server(data: Path) -> None:
    with running(data) as url:
        ask(url, "create table t as select 7 as i")
        state = data / "cluster" / "postmaster.pid"
        server = int(state.read_text().split()[0])
        os.kill(server, signal.SIGKILL)
        with running(data) as new_url:
            assert ask(new_url, "select i from t") == "7"
    assert processes(data) == {}


def test_stale_state_names_a_running_process(data: Path) -> None:
    with running(data):
        state = (data / "cluster" / "postmaster.pid").read_text().splitlines()
    stale = "\n".join([str(os.getpid()), *state[1:]])
    (data / "cluster" / "postmaster.pid").write_text(stale)
    with running(data) as url:
        assert ask(url, "select 1") == "1"


def test_guard_and_user_killed(data: Path, temporary: Path) -> None:
    user = User(data)
    kill_guards(temporary)
    user.signal(signal.SIGKILL)
    with running(data) as url:
        assert url == user.said
        assert ask(url, "select 1") == "1"
    assert processes(data) == {}


def test_server_that_does_not_start(data: Path) -> None:
    with running(data):
        pass
    with (data / "cluster" / "postgresql.conf").open("a") as settings:
        settings.write("work_mem = many\n")
    with pytest.raises(PostgresError, match="invalid value for parameter"), running(data):
        pass


def test_port_is_taken_during_the_start(tmp_path: Path, data: Path) -> None:
    module, free_port = Path(shutil.copy(MODULE, tmp_path)), postgres.free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = f"free_port = iter([{other.getsockname()[1]}, {free_port}]).__next__\n"
        start = 'if __name__ == "__main__":'
        module.write_text(module.read_text().replace(start, ports + start))
        user = User(data, project=tmp_path)
    assert f":{free_port}/" in user.said
    assert user.leave() == ""


def test_server_installed_on_the_machine(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "find_spec", {}.get)
    try:
        find_binaries()
    except PostgresError:
        pytest.skip("no PostgreSQL is installed on this machine")
    with running(data) as url:
        assert ask(url, "select lower('É')") == "é"
    with running() as url:
        assert ask(url, "select 1") == "1"


def test_no_server_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "find_spec", {}.get)
    monkeypatch.setattr(postgres, "INSTALLED", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PostgresError, match=r"Set DATABASE_URL .* or install a server"), running():
        pass


def test_other_major_version(data: Path) -> None:
    with running(data):
        pass
    (data / "cluster" / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresError, match="was made by PostgreSQL 9, and this is"), running(data):
        pass


def test_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "postgres"):
        with pytest.raises(PostgresError, match="PostgreSQL cannot use"), running(place):
            pass


def test_unwritable_folder() -> None:
    # Even root cannot create a folder in /proc.
    with pytest.raises(PostgresError, match="PostgreSQL cannot use"), running(Path("/proc/mine")):
        pass


@root_only
def test_as_an_unprivileged_user(open_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    (open_place / "home").mkdir()
    os.chown(open_place / "home", nobody, nobody)
    monkeypatch.setenv("TMPDIR", str(open_place / "home"))
    for arguments in ((), (open_place / "home" / "data",)):
        user = User(*arguments, project=open_place, uid=nobody)
        assert ask(user.said, "select 1") == "1"
        assert user.leave() == ""
    (open_place / "root's").mkdir(mode=0o700)
    user = User(open_place / "root's", project=open_place, uid=nobody)
    assert "Permission denied" in user.said
    user.leave()
    # Root can use that user's data, and leaves no files that the user cannot use.
    (open_place / "home" / "data" / "log").unlink()
    with running(open_place / "home" / "data") as url:
        assert ask(url, "select 1") == "1"
    assert {path.stat().st_uid for path in (open_place / "home").rglob("*")} == {nobody}


@pytest.fixture
def private(open_place: Path, tmp_path: Path) -> Path:
    """A project that only root may enter."""
    project = tmp_path / "private"
    shutil.copytree(open_place, project)
    for path in (project, *project.rglob("*")):
        path.chmod(0o700)
    return project


@root_only
def test_as_root_in_a_private_folder(
    private: Path, open_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = open_place / "temporary"
    copies.mkdir(mode=0o1777)
    monkeypatch.setenv("TMPDIR", str(copies))
    for arguments in ((), (private / "data",), (private / "data",)):
        user = User(*arguments, project=private)
        assert list(copies.glob("postgres-*/*/pginstall18/bin/postgres"))
        question = "set timezone = 'Europe/Berlin'; do 'begin end'; select 1"
        assert ask(user.said, question) == "1"
        assert user.leave() == ""
        assert list(copies.iterdir()) == []
    user = User(private / "data", project=private)
    user.signal(signal.SIGKILL)
    assert eventually(lambda: not processes(copies) and not list(copies.iterdir()))
    assert private.stat().st_mode & 0o777 == 0o700


@root_only
def test_as_root_where_a_copy_cannot_run(private: Path, temporary: Path) -> None:
    temporary.chmod(0o700)  # as if it were mounted with `noexec`
    user = User(private / "data", project=private)
    assert user.said.startswith(f"PostgresError: The user nobody cannot run {temporary}/postgres-")
    assert "Set TMPDIR to a folder that every user may enter" in user.said
    assert user.leave() == ""
