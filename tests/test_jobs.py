"""Workers of a rendered project that are killed, stopped and blocked: real processes."""

import json
import os
import re
import shutil
import signal
import socket
import socketserver
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, ClassVar
from unittest.mock import ANY

import psycopg
import pytest
import trustme
from breakable import COMMAND, Nats, Postgres, opening_postgres, row
from credentials import OperatedNats
from harness import eventually, succeed
from postgres import HOST
from psycopg import sql
from workers import BILLING, MAIL_PORT, Load, Queue, make_project, make_tables, opening_queue

# How often each test runs. `nox -s crashes` runs them twenty times.
ROUNDS = int(os.environ.get("ROUNDS", "1"))

ENGINES = {
    name: pytest.param(name, marks=pytest.mark.xdist_group(f"jobs-{name}"))
    for name in ("postgres", "nats")
}
nats_only = pytest.mark.parametrize("engine", [ENGINES["nats"]], indirect=True)


@pytest.fixture(scope="module", params=ENGINES.values())
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def server(engine: str) -> Iterator[Postgres]:
    with opening_postgres() as postgres:
        yield postgres


@pytest.fixture(scope="module")
def project(
    template: Path, server: Postgres, engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("project") / "rendered"
    return make_project(template, folder, server, engine)


@pytest.fixture(scope="module")
def brokers(project: Path, engine: str) -> Iterator[list[Nats]]:
    if engine == "postgres":
        yield []
        return
    with TemporaryDirectory(prefix="nats-") as folder:
        nats = Nats(project, Path(folder))
        nats.begin()
        try:
            create_stream(project, nats)
            yield [nats]
        finally:
            nats.halt()


def create_stream(project: Path, nats: Nats, *options: str, **variables: str) -> None:
    command = str(project / ".venv" / "bin" / COMMAND)
    variables["JOBS_NATS_URL"] = nats.url
    output = succeed(project, command, "jobs", "create-stream", *options, **variables)
    assert output.endswith("The stream was created.\n")


# A group for each round and engine: its tests share a project and servers.
NUMBERS = [
    pytest.param(number, marks=pytest.mark.xdist_group(f"round-{number}"))
    for number in range(ROUNDS)
]


@pytest.fixture(params=NUMBERS)
def queue(project: Path, server: Postgres, brokers: list[Nats], tmp_path: Path) -> Iterator[Queue]:
    with opening_queue(project, server, brokers, tmp_path) as queue:
        yield queue


class Inbox(socketserver.StreamRequestHandler):
    """A mail server: what clients have sent is in `messages`."""

    messages: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                self.messages.append(b"".join(iter(self.rfile.readline, b".\r\n")))
            self.wfile.write(b"250 OK\r\n")


class MailServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@row("A worker is killed")
def test_a_worker_that_is_killed_loses_no_job(queue: Queue) -> None:
    workers = {worker.process.pid: worker for worker in (queue.start_worker() for _ in range(2))}
    queue.add("long", seconds=60)
    assert eventually(lambda: bool(queue.has_started("long")))
    for index in range(20):
        queue.add(f"short {index}")
    [process] = queue.has_started("long")
    workers.pop(process).stop(signal.SIGKILL)
    # The lease ends after 10 seconds.
    assert eventually(queue.is_empty, 40), queue.query("SELECT name FROM jobs")
    assert queue.effects() == sorted(["long", *(f"short {index}" for index in range(20))])
    [survivor] = workers.values()
    assert eventually(lambda: bool(survivor.jobs(attempt=2, outcome="done")))


def test_workers_that_are_killed_under_load_lose_no_job(queue: Queue) -> None:
    workers = [queue.start_worker() for _ in range(2)]
    with Load(queue) as load:
        for _ in range(3):
            load.wait(40)
            workers.pop(0).stop(signal.SIGKILL)
            workers.append(queue.start_worker())
        load.wait(40)
    assert eventually(queue.is_empty, 60), queue.list_jobs()
    assert queue.effects() == sorted(load.tags)


@row("A job kills its worker")
def test_a_job_that_kills_its_worker_is_given_up(queue: Queue) -> None:
    queue.add("killer", deed="kill")
    for _ in range(2):
        worker = queue.start_worker()
        assert worker.process.wait(30) == -signal.SIGKILL
    worker = queue.start_worker()
    assert eventually(lambda: bool(queue.errors()), 30)
    assert "WorkerDied" in queue.errors()[0]
    assert len(queue.has_started("killer")) == 2
    assert queue.effects() == []
    queue.add("next")
    assert eventually(lambda: queue.effects() == ["next"])


@row("A worker gets SIGTERM")
def test_after_sigterm_jobs_end_or_are_released(queue: Queue) -> None:
    worker = queue.start_worker("--grace=5")
    queue.add("short", seconds=2)
    queue.add("long", seconds=60)
    assert eventually(lambda: bool(queue.has_started("short") and queue.has_started("long")))
    other = queue.start_worker()
    assert worker.stop() == 0
    assert "short" in queue.effects()
    assert len(worker.jobs(outcome="done")) == 1
    assert len(worker.jobs(outcome="released")) == 1
    # Another worker starts it at once, and the attempt did not count.
    assert eventually(lambda: len(queue.has_started("long")) == 2)
    assert eventually(lambda: bool(other.jobs(attempt=1, outcome="done")))
    assert queue.is_empty()
    assert queue.effects() == ["long", "short"]


def test_after_a_second_signal_jobs_are_released_at_once(queue: Queue) -> None:
    worker = queue.start_worker("--grace=1000")
    queue.add("long", seconds=60)
    assert eventually(lambda: bool(queue.has_started("long")))
    worker.process.send_signal(signal.SIGTERM)
    assert eventually(lambda: "worker stops" in worker.log)
    assert worker.process.poll() is None
    assert worker.stop() == 0
    assert len(worker.jobs(outcome="released")) == 1
    other = queue.start_worker()
    assert eventually(lambda: bool(other.jobs(attempt=1, outcome="done")))
    assert queue.effects() == ["long"]


@row("The database is killed while workers run")
def test_a_database_that_is_killed_loses_no_accepted_job(queue: Queue) -> None:
    workers = [queue.start_worker() for _ in range(2)]
    with Load(queue) as load:
        load.wait(50)
        queue.server.kill()
        queue.server.begin()
        load.wait(50)
    assert eventually(queue.is_empty, 60), queue.query("SELECT error FROM jobs")
    effects = queue.effects()
    assert len(effects) == len(set(effects))
    assert load.tags <= set(effects)  # a commit whose response was lost has an effect, too
    for worker in workers:
        assert worker.process.poll() is None
        assert worker.log.count("the queue is unreachable") <= 1


@row("The database is frozen while workers run")
def test_a_database_that_is_frozen_loses_no_accepted_job(queue: Queue) -> None:
    worker = queue.start_worker()
    queue.add("running", seconds=2)
    assert eventually(lambda: bool(queue.has_started("running")))
    queue.server.send(signal.SIGSTOP)
    try:
        assert queue.add("during").status_code == 503
        assert eventually(lambda: "the queue is unreachable" in worker.log, 30)
    finally:
        queue.server.send(signal.SIGCONT)
    assert eventually(queue.service.answers)
    assert queue.add("after").status_code == 202
    assert eventually(queue.is_empty, 40), queue.query("SELECT error FROM jobs")
    assert queue.effects() in (["after", "running"], ["after", "during", "running"])
    assert worker.log.count("the queue is unreachable") == 1
    assert worker.stop() == 0


@row("A worker starts with a wrong password")
def test_a_worker_with_a_wrong_password_waits_for_the_right_one(queue: Queue) -> None:
    queue.add("patient")
    with queue.server.connect(autocommit=True) as connection:
        connection.execute("ALTER ROLE owner PASSWORD 'another'")
        try:
            worker = queue.start_worker()
            assert eventually(lambda: "the queue is unreachable" in worker.log, 30)
            assert worker.process.poll() is None
        finally:
            password = queue.server.password
            connection.execute(sql.SQL("ALTER ROLE owner PASSWORD {}").format(password))
    assert eventually(lambda: queue.effects() == ["patient"])
    assert password not in worker.log


@row("A worker is frozen")
def test_a_worker_that_is_frozen_writes_nothing_later(queue: Queue) -> None:
    frozen = queue.start_worker()
    queue.add("long", seconds=60)
    assert eventually(lambda: bool(queue.has_started("long")))
    frozen.process.send_signal(signal.SIGSTOP)
    other = queue.start_worker()
    assert eventually(lambda: queue.effects() == ["long"], 30)
    frozen.process.send_signal(signal.SIGCONT)
    assert eventually(lambda: bool(frozen.jobs(attempt=1, outcome="lost")))
    assert eventually(lambda: bool(other.jobs(attempt=2, outcome="done")))
    assert other.stop() == 0
    queue.add("next")
    assert eventually(lambda: queue.effects() == ["long", "next"])
    assert "NATS" not in frozen.log


@row("A handler raises")
def test_a_job_that_fails_is_kept_listed_retried_and_deleted(queue: Queue) -> None:
    queue.start_worker()
    queue.add("printer", deed="raise")
    assert eventually(lambda: bool(queue.errors()) and queue.is_settled())
    assert len(queue.has_started("printer")) == 2
    [job] = queue.list_jobs()
    assert (job["name"], job["state"], job["attempts"]) == ("Doomed", "failed", 2)
    assert job["error"] == "RuntimeError('no paper')"
    assert json.loads(queue.command("jobs"))["failed"] == 1
    assert "is due" in queue.command("jobs", "retry", job["id"])
    assert eventually(lambda: len(queue.has_started("printer")) == 4)
    assert eventually(lambda: bool(queue.errors()) and queue.is_settled())
    assert [job["state"] for job in queue.list_jobs()] == ["failed"]
    assert "was deleted" in queue.command("jobs", "delete", job["id"])
    assert queue.list_jobs() == []
    for name in ("retry", "delete"):
        done = queue.run("jobs", name, job["id"])
        assert done.returncode == 1
        assert done.stdout.startswith("Error: There is no ")
    assert queue.effects() == []


def test_a_job_that_is_longer_than_its_lease_runs_once(queue: Queue) -> None:
    for _ in range(2):
        queue.start_worker()
    queue.add("long", seconds=14)
    assert eventually(lambda: queue.effects() == ["long"], 30)
    assert len(queue.has_started("long")) == 1


@row("A handler blocks the event loop")
def test_a_handler_that_blocks_the_event_loop_loses_leases_in_the_log(queue: Queue) -> None:
    first = queue.start_worker()
    queue.add("patient", seconds=17)
    assert eventually(lambda: bool(queue.has_started("patient")))
    queue.add("blocking", seconds=13, deed="block")
    assert eventually(lambda: bool(queue.has_started("blocking")))
    second = queue.start_worker()
    assert eventually(lambda: queue.is_empty() and len(first.jobs(outcome="lost")) >= 1, 60)
    effects = queue.effects()
    assert effects == ["blocking", "patient"]
    assert second.jobs(outcome="done")


def test_a_job_for_a_later_time_waits(queue: Queue) -> None:
    start = time.monotonic()
    for tag, delay in (("in an hour", 3600), ("in four seconds", 4), ("now", 0)):
        assert queue.add(tag, delay=delay).status_code == 202
    queue.start_worker()
    assert eventually(lambda: queue.effects() == ["in four seconds", "now"])
    assert time.monotonic() - start >= 4


def test_a_key_is_unique_until_its_job_starts(queue: Queue) -> None:
    for tag in ("a", "b"):
        assert queue.add(tag, key="key").status_code == 202
    worker = queue.start_worker(JOBS_CONCURRENCY="1")
    assert eventually(lambda: queue.effects() == ["a"])
    queue.add("busy", deed="wait")
    assert eventually(lambda: bool(queue.has_started("busy")))
    queue.add("c", key="key")
    if queue.brokers:  # it waits in the stream
        assert eventually(lambda: queue.broker.count_messages() == 2)
    queue.add("d", key="key")
    queue.add("e", key="another key")
    queue.let_go()
    assert eventually(queue.is_empty)
    assert queue.effects() == ["a", "busy", "c", "e"]
    assert len(worker.jobs(outcome="done")) == 4


def test_a_periodic_job_runs_once_at_each_time(queue: Queue) -> None:
    workers = [queue.start_worker() for _ in range(3)]
    listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    assert eventually(lambda: queue.query(listening) == [3])
    later = "SELECT 1 FROM jobs WHERE name = 'Tick' AND due_at > now() + interval '1 minute'"
    for _ in range(5):
        queue.query("TRUNCATE effects")
        queue.query("UPDATE jobs SET due_at = now() WHERE name = 'Tick'")
        assert eventually(lambda: queue.effects() == ["tick"])
        assert eventually(lambda: queue.query(later) == [1] and queue.is_empty())
    assert len(queue.has_started("tick")) == 5
    # A time at which no worker runs is not missed.
    for worker in workers:
        assert worker.stop() == 0
    queue.query("UPDATE jobs SET due_at = now() - interval '30 seconds' WHERE name = 'Tick'")
    queue.start_worker()
    assert eventually(lambda: queue.effects() == ["tick", "tick"])


def test_a_worker_starts_as_many_jobs_as_it_may(queue: Queue) -> None:
    for tag in ("first", "second"):
        queue.add(tag, seconds=60)
    worker = queue.start_worker("--grace=0", JOBS_CONCURRENCY="1")
    assert eventually(lambda: bool(queue.starts.read_text()))
    assert worker.stop() == 0
    assert len(worker.jobs(outcome="released")) == 1
    assert len(queue.starts.read_text().splitlines()) == 1


def test_a_write_that_is_rolled_back_adds_no_job(queue: Queue) -> None:
    queue.start_worker()
    assert queue.add("nothing", deed="conflict").status_code == 409
    assert queue.add("something").status_code == 202
    assert eventually(lambda: queue.effects() == ["something"])
    assert queue.is_empty()


@row("A payload is not valid")
def test_a_worker_survives_a_payload_that_is_not_valid(queue: Queue) -> None:
    queue.insert("Work", "[1]")
    worker = queue.start_worker()
    assert eventually(lambda: len(worker.jobs(outcome="failed", attempt=1)) == 1)
    queue.add("next")
    assert eventually(lambda: queue.effects() == ["next"])
    assert worker.stop() == 0


@row("A job has no handler in this version")
def test_two_versions_of_the_service_run_side_by_side(queue: Queue, tmp_path: Path) -> None:
    shutil.copytree(queue.project / "src", tmp_path / "src")
    jobs = tmp_path / "src" / "my_service" / "works" / "jobs.py"
    new_field = 'deed: str = ""\n    color: str = "none"'
    code = jobs.read_text().replace('deed: str = ""', new_field).replace("Doomed", "Later")
    jobs.write_text(code)
    router = jobs.with_name("router.py")
    router.write_text(router.read_text().replace("Doomed", "Later"))
    old = queue.start_worker()
    queue.insert("Work", '{"tag": "colored", "color": "red"}')
    queue.insert("Later", '{"tag": "later"}')
    assert eventually(lambda: queue.has_started("colored") == [old.process.pid])
    queue.add("next")
    assert eventually(lambda: queue.effects() == ["colored", "next"])
    assert queue.query("SELECT attempts FROM jobs WHERE failed_at IS NULL AND name = 'Later'") == [
        0
    ]
    new = queue.start_worker(PYTHONPATH=str(tmp_path / "src"))
    assert old.stop() == 0
    assert eventually(lambda: queue.has_started("later") == [new.process.pid], 30)
    queue.add("last")
    assert eventually(lambda: queue.has_started("last") == [new.process.pid])
    assert eventually(queue.is_empty)
    assert queue.effects() == ["colored", "last", "later", "next"]


@row("The mail server is unreachable while jobs send mail")
def test_mail_arrives_when_its_server_is_back(queue: Queue) -> None:
    Inbox.messages.clear()
    with socket.create_server((HOST, MAIL_PORT)) as listener:
        worker = queue.start_worker()
        start = time.monotonic()
        assert queue.service.client.post("/works/mail").status_code == 202
        assert time.monotonic() - start < 5
        with listener.accept()[0]:  # it says nothing
            worker.stop(signal.SIGKILL)
    worker = queue.start_worker()
    # The lease ends. Then, nothing listens.
    assert eventually(lambda: "Error connecting" in worker.log, 30)
    with MailServer((HOST, MAIL_PORT), Inbox) as inbox:
        thread = Thread(target=inbox.serve_forever)
        thread.start()
        assert eventually(queue.is_empty, 30)
        inbox.shutdown()
        thread.join()
    [message] = Inbox.messages
    assert b"Subject: Test message of" in message


@nats_only
def test_jobs_whose_keys_a_transaction_holds_wait_for_it_alone(queue: Queue) -> None:
    relay = queue.start_worker("--grace=0", JOBS_CONCURRENCY="1")
    queue.add("busy", deed="wait")
    assert eventually(lambda: bool(queue.has_started("busy")))
    keys = [f"key {number}" for number in range(8)]
    for key in keys:
        queue.add(key, key=key)
    assert eventually(lambda: queue.broker.count_messages() == 9)
    with queue.server.connect() as connection:
        connection.execute("SELECT 1 FROM jobs WHERE key IS NOT NULL FOR UPDATE")
        worker = queue.start_worker(DATABASE_STATEMENT_TIMEOUT="60")
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        assert eventually(lambda: queue.query(waiting) == [8], 30)
        assert relay.stop() == 0
        queue.add("other")
        assert eventually(lambda: "other" in queue.effects(), 30)
        time.sleep(4)  # longer than the worker waits for its own statements
    queue.let_go()
    assert eventually(queue.is_empty, 30)
    assert queue.effects() == sorted(["busy", "other", *keys])
    assert not worker.jobs(outcome="retried")
    assert "unreachable" not in worker.log


@nats_only
def test_a_job_that_is_deleted_while_it_runs_is_not_released(queue: Queue) -> None:
    worker = queue.start_worker("--grace=0")
    for tag in ("deleted", "released"):
        queue.add(tag, deed="wait")
        assert eventually(lambda: bool(queue.has_started(tag)))  # noqa: B023
    assert json.loads(queue.command("jobs"))["delivered"] == 2
    [first, _] = queue.list_jobs()
    queue.command("jobs", "delete", first["id"])
    assert worker.stop() == 0
    queue.let_go()
    queue.start_worker()
    assert eventually(lambda: queue.effects() == ["released"])
    assert queue.is_empty()


@nats_only
@row("NATS is unreachable when a worker starts")
def test_jobs_wait_until_nats_is_reachable(queue: Queue) -> None:
    queue.broker.halt()
    worker, other = queue.start_worker(), queue.start_worker()
    assert queue.add("patient").status_code == 202
    # The command says so, and then the worker.
    for process in (worker, other):
        assert eventually(lambda log=process: log.log.count("NATS is unreachable") == 2)
    # The commands show the table.
    for arguments, text in ((["jobs"], '"due": 1'), (["jobs", "list"], '"state": "waiting"')):
        done = queue.run(*arguments)
        assert done.returncode == 1
        assert text in done.stdout
        assert "Error: Cannot connect to NATS: ConnectionRefusedError: " in done.stdout
    assert other.stop() == 0
    assert queue.query("SELECT attempts FROM jobs WHERE name = 'Work'") == [0]
    queue.broker.begin()
    assert eventually(lambda: queue.effects() == ["patient"])
    assert eventually(queue.is_empty)
    assert eventually(lambda: worker.log.count("NATS works again") == 1)
    assert worker.log.count("NATS is unreachable") == 2
    assert worker.stop() == 0


@nats_only
@row("NATS is killed, or restarted")
def test_nats_that_is_killed_loses_no_accepted_job(queue: Queue) -> None:
    workers = [queue.start_worker() for _ in range(2)]
    with Load(queue) as load:
        for end in (queue.broker.kill, queue.broker.halt):
            load.wait(50)
            end()
            load.wait(50)  # also without NATS
            queue.broker.begin()
        load.wait(50)
    assert eventually(queue.is_empty, 60), queue.list_jobs()
    assert queue.effects() == sorted(load.tags)
    for worker in workers:
        assert worker.process.poll() is None
        assert worker.log.count("NATS is unreachable") <= 2
        assert worker.stop() == 0


@nats_only
@row("NATS ends a connection with an error")
def test_a_worker_connects_again_after_an_error_of_nats(queue: Queue) -> None:
    workers = [queue.start_worker() for _ in range(2)]
    queue.add("first")
    assert eventually(lambda: queue.effects() == ["first"])
    consumer = f"CONSUMER.INFO.{COMMAND}.worker"
    assert eventually(lambda: queue.broker.call(consumer)["num_waiting"] == 2)
    try:
        queue.broker.reload("max_connections: 1")
        error = "maximum connections exceeded"
        assert eventually(lambda: any(error in worker.log for worker in workers))
    finally:
        queue.broker.reload()
    survivor = next(worker for worker in workers if error in worker.log)
    for worker in workers:
        if worker is not survivor:
            assert worker.stop() == 0
    queue.add("second")
    assert eventually(lambda: queue.effects() == ["first", "second"])
    assert queue.has_started("second") == [survivor.process.pid]
    assert eventually(lambda: "NATS works again" in survivor.log)
    assert survivor.stop() == 0


@nats_only
@row("NATS or the network is frozen")
def test_nats_that_is_frozen_loses_no_accepted_job(queue: Queue) -> None:
    worker = queue.start_worker()
    queue.add("running", deed="wait")
    assert eventually(lambda: bool(queue.has_started("running")))
    queue.broker.freeze()
    assert queue.add("during").status_code == 202
    queue.let_go()
    assert eventually(lambda: queue.effects() == ["running"])
    assert eventually(lambda: "NATS is unreachable" in worker.log, 40)
    queue.broker.go_on()
    assert queue.add("after").status_code == 202
    assert eventually(queue.is_empty, 60), queue.list_jobs()
    assert queue.effects() == ["after", "during", "running"]
    assert len(queue.has_started("running")) == 1
    assert worker.log.count("NATS is unreachable") == 1
    assert worker.stop() == 0


@nats_only
def test_a_worker_ends_while_nats_is_frozen(queue: Queue) -> None:
    worker = queue.start_worker("--grace=0")
    queue.add("long", deed="wait")
    assert eventually(lambda: bool(queue.has_started("long")))
    queue.broker.freeze()
    assert worker.stop() == 0
    queue.broker.go_on()
    queue.let_go()
    queue.start_worker()
    assert eventually(lambda: queue.effects() == ["long"], 30)


@nats_only
@row("NATS is restarted while a job runs")
def test_a_job_runs_once_while_nats_is_restarted(queue: Queue) -> None:
    worker = queue.start_worker()
    queue.add("long", seconds=16)
    assert eventually(lambda: bool(queue.has_started("long")))
    for end in (queue.broker.halt, queue.broker.kill):
        end()
        queue.broker.begin()
        assert queue.add(end.__name__).status_code == 202
        assert eventually(lambda name=end.__name__: name in queue.effects())
    assert queue.effects() == ["halt", "kill"]
    assert eventually(lambda: queue.effects() == ["halt", "kill", "long"], 30)
    assert eventually(queue.is_empty)
    assert len(queue.has_started("long")) == 1
    assert len(worker.jobs(attempt=1, outcome="done")) == 3


@nats_only
@row("The stream is full")
def test_jobs_wait_in_the_table_while_the_stream_is_full(queue: Queue) -> None:
    stream = f"small-{token_hex(4)}"
    create_stream(queue.project, queue.broker, "--max-bytes=10000", JOBS_STREAM=stream)
    worker = queue.start_worker(JOBS_STREAM=stream, JOBS_CONCURRENCY="1")
    queue.add("busy", deed="wait")
    assert eventually(lambda: bool(queue.has_started("busy")))
    for index in range(30):
        assert queue.add(f"job {index}", padding="x" * 1000).status_code == 202
    assert eventually(lambda: "NATS refuses requests" in worker.log)
    assert "maximum bytes exceeded" in worker.log
    assert not eventually(lambda: "NATS works again" in worker.log, 3)  # it tries each second
    assert worker.log.count("NATS refuses requests") == 1
    assert 10 < len(queue.query("SELECT 1 FROM jobs WHERE name = 'Work'")) < 30
    queue.let_go()
    assert eventually(lambda: len(queue.effects()) == 31, 60)
    assert queue.effects() == sorted(["busy", *(f"job {index}" for index in range(30))])
    assert eventually(lambda: not queue.has_rows())
    assert eventually(lambda: "NATS works again" in worker.log)
    assert worker.stop() == 0
    queue.broker.call(f"STREAM.DELETE.{stream}")


@nats_only
@row("The password of NATS is wrong")
def test_a_worker_waits_for_the_right_password_of_nats(queue: Queue) -> None:
    right = queue.broker.password
    running = queue.start_worker()
    queue.add("first")
    assert eventually(lambda: queue.effects() == ["first"])
    queue.broker.halt()
    queue.broker.password = token_hex(16)
    queue.broker.begin()
    starting = queue.start_worker(
        JOBS_NATS_URL=queue.broker.url.replace(queue.broker.password, right)
    )
    assert queue.add("patient").status_code == 202
    for worker in (running, starting):
        assert eventually(lambda log=worker: "NATS is unreachable" in log.log), worker.log
        assert right not in worker.log
    assert eventually(lambda: "Authorization Violation" in starting.log), starting.log
    done = queue.run("jobs", JOBS_NATS_URL=queue.broker.url.replace(queue.broker.password, right))
    assert "Error: Cannot connect to NATS: " in done.stdout
    assert "Authorization Violation" in done.stdout
    time.sleep(4)  # several attempts
    queue.broker.halt()
    queue.broker.password = right
    queue.broker.begin()
    assert eventually(lambda: queue.effects() == ["first", "patient"], 30)
    for worker in (running, starting):
        assert eventually(lambda log=worker: "NATS works again" in log.log), worker.log
        assert worker.stop() == 0


@nats_only
@row("The certificate of NATS is not trusted")
def test_tls_and_credentials_with_the_permissions_of_the_docs(queue: Queue, tmp_path: Path) -> None:
    docs = (queue.project / "docs" / "operations.md").read_text()
    section = docs.split("\n## NATS\n")[1].split("\n## ")[0]
    worker_subjects = re.findall(r'"([^"]+)"', section.split("publish: [")[1].split("]")[0])
    subjects = {*worker_subjects, *re.findall(r"`(\$JS\.[^`]+)`", section)}
    assert len(worker_subjects) < len(subjects) < 15
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    folder = tmp_path / "nats"
    folder.mkdir()
    nats = OperatedNats(queue.project, folder, authority.issue_cert(HOST))
    trusted = {"JOBS_NATS_URL": nats.url, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    inbox = ["_INBOX.>"]
    administrator = trusted | {"JOBS_NATS_CREDENTIALS": nats.write_credentials([*subjects], inbox)}
    limited = trusted | {"JOBS_NATS_CREDENTIALS": nats.write_credentials(worker_subjects, inbox)}
    nats.begin()
    queue.stack.callback(nats.halt)
    create_stream(queue.project, nats, **administrator)

    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    distrustful = queue.start_worker(**limited | {"SSL_CERT_FILE": str(tmp_path / "other.pem")})
    queue.add("patient")
    # The command and the worker say it.
    assert eventually(lambda: distrustful.log.count("NATS is unreachable") == 2), distrustful.log
    assert distrustful.log.count("certificate verify failed") == 2
    assert queue.effects() == []
    assert distrustful.stop() == 0

    worker = queue.start_worker("--grace=0", **limited, JOBS_CONCURRENCY="1")
    queue.add("printer", deed="raise")
    assert eventually(lambda: queue.effects() == ["patient"]), worker.log
    assert eventually(lambda: len(queue.errors()) == 1)
    queue.add("busy", deed="wait")
    assert eventually(lambda: bool(queue.has_started("busy")))
    queue.add("second")
    assert eventually(lambda: len(queue.list_jobs(**limited)) == 3)
    length = queue.command("jobs", **limited).splitlines()[-1]
    assert json.loads(length)["due"] == 1
    done = queue.run("jobs", "delete", queue.list_jobs(**limited)[-1]["id"], **limited)
    assert "Error: NATS says: Error: nats: permissions violation for publish" in done.stdout
    done = queue.run("jobs", "create-stream", "--replicas=1", **limited)
    assert "up to date" in done.stdout
    assert worker.stop() == 0
    assert worker.jobs(outcome="released")
    assert "NATS" not in worker.log
    assert "2 jobs were moved" in queue.command("jobs", "withdraw", **administrator)


@nats_only
@row("The stream is missing, or has other limits")
def test_a_worker_refuses_a_stream_that_is_not_one_for_jobs(queue: Queue) -> None:
    name = f"other-{token_hex(4)}"
    for option in ("--relay", "--no-relay"):
        done = queue.run("work", option, JOBS_STREAM=name)
        assert done.returncode == 1
        assert f"Error: The stream {name} is not one for jobs: stream not found." in done.stdout
        assert "`my-service jobs create-stream` creates it" in done.stdout
    for arguments in (["jobs"], ["jobs", "list"], ["jobs", "withdraw"]):
        done = queue.run(*arguments, JOBS_STREAM=name)
        assert done.returncode == 1
        assert "`my-service jobs create-stream` creates it" in done.stdout
    queue.broker.call(
        f"STREAM.CREATE.{name}", name=name, subjects=[f"{name}.jobs.>"], max_age=10**12
    )
    for arguments in (["work"], ["jobs", "create-stream"]):
        done = queue.run(*arguments, JOBS_STREAM=name)
        assert done.returncode == 1
        assert f"Error: The stream {name} is not one for jobs: it has " in done.stdout
    assert queue.broker.call(f"CONSUMER.NAMES.{name}")["total"] == 0
    queue.broker.call(f"STREAM.DELETE.{name}")
    create_stream(queue.project, queue.broker, "--max-bytes=10000", JOBS_STREAM=name)
    done = queue.run("jobs", "create-stream", "--max-bytes=20000", JOBS_STREAM=name)
    assert done.returncode == 1
    assert "it has max_bytes 10000, not 20000" in done.stdout
    assert "up to date" in queue.command("jobs", "create-stream", JOBS_STREAM=name)
    queue.broker.call(f"STREAM.DELETE.{name}")


@nats_only
@row("The stream is deleted while workers run")
def test_jobs_wait_until_the_stream_is_created_again(queue: Queue) -> None:
    worker = queue.start_worker()
    queue.add("first")
    assert eventually(lambda: queue.effects() == ["first"])
    queue.broker.call(f"STREAM.DELETE.{COMMAND}")
    try:
        assert queue.add("second").status_code == 202
        assert eventually(lambda: "NATS refuses requests" in worker.log)
        assert not eventually(lambda: "NATS works again" in worker.log, 3)  # it tries each second
    finally:
        create_stream(queue.project, queue.broker)
    assert eventually(lambda: queue.effects() == ["first", "second"])
    assert eventually(lambda: "NATS works again" in worker.log)
    assert worker.log.count("NATS refuses requests") == 1
    assert worker.process.poll() is None


@nats_only
@row("The database is unreachable while jobs run that do not use it")
def test_jobs_that_use_no_database_run_without_one(queue: Queue) -> None:
    before = queue.start_worker(JOBS_CONCURRENCY="2")
    queue.publish("Note", {"tag": "before"})
    assert eventually(lambda: queue.has_started("before") == [before.process.pid])
    queue.server.halt()
    try:
        queue.publish("Note", {"tag": "during"})
        assert eventually(lambda: queue.has_started("during") == [before.process.pid])
        before.process.send_signal(signal.SIGSTOP)
        after = queue.start_worker("--no-relay")
        for index in range(20):
            queue.publish("Note", {"tag": f"note {index}"})
        # The first ones may have been delivered to the worker that is stopped.
        assert eventually(
            lambda: all(queue.has_started(f"note {index}") for index in range(20)), 30
        )
        assert after.process.pid in queue.has_started("note 19")
        assert "database" not in after.log
        before.process.send_signal(signal.SIGCONT)
        queue.publish("Work", {"tag": "work"})
        assert eventually(
            lambda: bool(after.jobs(outcome="retried") + before.jobs(outcome="retried"))
        )
    finally:
        queue.server.begin()
    assert eventually(lambda: queue.effects() == ["work"], 40)
    assert eventually(queue.is_empty, 30)
    assert after.stop() == 0
    assert before.stop() == 0


@nats_only
@row("A worker is killed between the commit and the acknowledgement")
def test_what_a_job_has_written_before_its_worker_died_is_there_once(queue: Queue) -> None:
    worker = queue.start_worker()
    queue.add("job", deed="wait")
    assert eventually(lambda: bool(queue.has_started("job")))
    queue.broker.freeze()
    queue.let_go()
    assert eventually(lambda: queue.effects() == ["job"])
    worker.stop(signal.SIGKILL)
    # What it has sent to the frozen server gets lost.
    queue.broker.kill()
    queue.broker.begin()
    assert queue.broker.count_messages() == 1
    queue.start_worker()
    assert eventually(queue.is_empty, 30)
    assert queue.effects() == ["job"]
    assert len(queue.has_started("job")) == 1


@nats_only
@row("Several workers publish at once")
def test_several_relays_publish_each_job_once(queue: Queue) -> None:
    tags = [f"job {index}" for index in range(400)]
    queue.insert("Work", *(json.dumps({"tag": tag}) for tag in tags))
    for _ in range(3):
        queue.start_worker()
    with ThreadPoolExecutor(4) as threads:
        for response in threads.map(queue.add, [f"later {tag}" for tag in tags[:100]]):
            assert response.status_code == 202
    assert eventually(queue.is_empty, 60)
    expected = sorted([*tags, *(f"later {tag}" for tag in tags[:100])])
    assert queue.effects() == expected
    starts = [line.partition(" ")[2] for line in queue.starts.read_text().splitlines()]
    assert sorted(starts) == expected
    # None was published twice, either.
    info = queue.broker.call(f"CONSUMER.INFO.{COMMAND}.worker")
    assert info["num_redelivered"] == info["num_pending"] == 0


POISON: dict[str, list[tuple[str, bytes, dict[str, str]]]] = {
    "body": [
        ("Work", body, {})
        for body in (
            b"",
            b"\xff\xfe",
            b"{",
            b"[1]",
            b"null",
            b'"\\u0000"',
            b'{"tag": "\\u0000", "seconds": "x"}',
            b'{"tag": 1, "deed": "\\ud800"}',
            b'{"tag": NaN, "deed": 1e999}',
            b"[" * 100_000,
            b"1" * 10_000,
            b'{"tag": "' + b"x" * 1_040_000,
        )
    ],
    "name": [
        (name, body, {})
        for name in ("Unknown", "un.known", "ünknown", "x" * 200, "Work.x", "a\0b")
        for body in (b'{"tag": "x"}', b'"\\u0000 \\ud800"', b"\0", b"[" * 100_000)
    ],
    "headers": [
        (name, b"{}", {header: value})
        for name in ("Doomed", "Unknown")
        for header, value in (
            ("Job_Id", "no id"),
            ("Job_Id", "\0"),
            ("Job_Attempts", "9" * 5000),
            ("Job_Attempts", "999999"),
            ("Job_Attempts", "99999999999"),
            ("Job_Attempts", "²"),
            ("request_id", "a\0b"),
            ("request_id", "x" * 3000),
            # The client library takes such a message for a response of the server.
            ("Status", "x"),
            ("Status", "100"),
            ("Status", "404"),
            ("Status", "408"),
            ("Status", "503"),
        )
    ],
}


@nats_only
@pytest.mark.parametrize("kind", POISON)
@row("Another program publishes what is no job")
def test_a_worker_survives_messages_that_are_no_jobs(queue: Queue, kind: str) -> None:
    worker = queue.start_worker()
    for name, body, headers in POISON[kind]:
        queue.publish(name, body, **headers)
    assert eventually(queue.is_settled, 30), worker.log[-3000:]
    assert queue.add("next").status_code == 202
    assert eventually(lambda: "next" in queue.effects())
    assert eventually(lambda: len(queue.list_jobs()) == len(POISON[kind]))
    assert worker.process.poll() is None
    assert "unreachable" not in worker.log
    assert "NATS refuses requests" not in worker.log
    queue.command("jobs", "delete", queue.list_jobs()[0]["id"])


@nats_only
def test_a_relay_survives_messages_that_no_worker_has_returned(queue: Queue) -> None:
    returned: dict[str, Any] = {
        "id": "01a00000-0000-7000-8000-000000000000",
        "name": "x",
        "payload": {},
    }
    cases = [returned | {"attempts": attempts, "context": {}} for attempts in (-1, 10**12)]
    cases += [returned | {"attempts": 1, "context": {"a\0b": "c\0d"}}]
    bodies = [
        b"",
        b"\xff",
        b"[]",
        b'{"id": 7}',
        b"\0",
        *(json.dumps(case).encode() for case in cases),
    ]
    for body in bodies:
        queue.broker.request(f"{COMMAND}.returned", body)
    worker = queue.start_worker()
    queue.add("next", deed="raise")
    assert eventually(lambda: "RuntimeError('no paper')" in queue.errors(), 30)
    assert eventually(queue.is_settled, 30)
    assert worker.process.poll() is None
    assert "unreachable" not in worker.log


@nats_only
def test_a_message_with_the_id_of_a_periodic_job_does_not_stop_it(queue: Queue) -> None:
    worker = queue.start_worker()
    has_tick = "SELECT id FROM jobs WHERE name = 'Tick' AND failed_at IS NULL"
    assert eventually(lambda: len(queue.query(has_tick)) == 1)
    [tick_id] = queue.query(has_tick)
    queue.publish("Doomed", b"[1]", Job_Id=str(tick_id))
    assert eventually(lambda: len(worker.jobs(outcome="failed")) == 1)
    assert eventually(queue.is_empty)
    assert queue.query(has_tick) == [tick_id]


@nats_only
def test_a_job_that_is_done_is_not_withdrawn(queue: Queue) -> None:
    """Its worker has died before the acknowledgement."""
    queue.publish("Work", {"tag": "done"}, Job_Id="01a00000-0000-7000-8000-000000000000")
    queue.query(
        "INSERT INTO finished_jobs (id, created_at, updated_at) "
        "VALUES ('01a00000-0000-7000-8000-000000000000', now(), now())"
    )
    assert queue.command("jobs", "withdraw") == "0 jobs were moved to the table.\n"
    assert queue.is_empty()


def test_a_failed_job_keeps_no_key(queue: Queue) -> None:
    queue.add("invalid", key="key")
    queue.query("UPDATE jobs SET payload = '[1]' WHERE key = 'key'")
    queue.start_worker()
    assert eventually(lambda: len(queue.errors()) == 1)
    queue.add("valid", key="key")
    assert eventually(lambda: queue.effects() == ["valid"])


@nats_only
def test_jobs_that_fail_leave_a_stream_that_is_full(queue: Queue) -> None:
    stream = f"small-{token_hex(4)}"
    create_stream(queue.project, queue.broker, "--max-bytes=10000", JOBS_STREAM=stream)
    worker = queue.start_worker(JOBS_STREAM=stream)
    for index in range(20):
        queue.add(f"job {index}", deed="raise", padding="x" * 1000)
    assert eventually(lambda: len(queue.errors()) == 20, 90), worker.log[-3000:]
    assert {*queue.errors()} == {"RuntimeError('no paper')"}
    assert worker.stop() == 0
    queue.broker.call(f"STREAM.DELETE.{stream}")


class Listener(socketserver.BaseRequestHandler):
    """A NATS without TLS. `received` is what clients have sent to it."""

    received: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        self.request.sendall(b'INFO {"max_payload": 1000000, "auth_required": true}\r\n')
        self.received.append(self.request.recv(1000))


@nats_only
@row("NATS has no TLS, but the URL is `tls://`")
def test_no_password_is_sent_without_tls(queue: Queue) -> None:
    with MailServer((HOST, 0), Listener) as server:
        Thread(target=server.serve_forever).start()
        worker = queue.start_worker(JOBS_NATS_URL=f"tls://a:b@{HOST}:{server.server_address[1]}")
        queue.add("patient")
        assert eventually(lambda: "the server does not require TLS" in worker.log)
        assert eventually(lambda: len(Listener.received) >= 2)
        server.shutdown()
    assert {*Listener.received} == {b""}
    assert queue.effects() == []


@nats_only
@row("A payload is too large for NATS")
def test_a_payload_that_is_too_large_is_kept_as_failed(queue: Queue) -> None:
    # The second one fits, but not together with its error.
    for size in (1_100_000, 1_048_500):
        work = {"tag": "large", "deed": "raise", "padding": ""}
        work["padding"] = "x" * (size - len(json.dumps(work)))
        queue.insert("Doomed", json.dumps(work))
    worker = queue.start_worker()
    queue.add("next")
    assert eventually(lambda: queue.effects() == ["next"])
    assert eventually(lambda: len(queue.errors()) == 2 and queue.is_settled(), 30), worker.log
    assert "The payload is too large for NATS." in queue.errors()
    assert "unreachable" not in worker.log


@nats_only
def test_an_error_that_is_too_large_for_nats_is_cut(queue: Queue) -> None:
    worker = queue.start_worker()
    queue.add("x" * 100, deed="rant")
    assert eventually(lambda: len(queue.errors()) == 1 and queue.is_settled(), 30), worker.log
    assert queue.errors()[0].startswith("RuntimeError('")


@nats_only
def test_a_job_of_a_later_version_waits_in_the_table(queue: Queue, tmp_path: Path) -> None:
    shutil.copytree(queue.project / "src", tmp_path / "src")
    jobs = tmp_path / "src" / "my_service" / "works" / "jobs.py"
    jobs.write_text(jobs.read_text().replace("Note", "Letter"))
    old = queue.start_worker()
    queue.publish("Letter", {"tag": "letter"})
    assert eventually(lambda: queue.has_rows() and queue.broker.count_messages() == 0)
    assert queue.query("SELECT attempts FROM jobs WHERE name = 'Letter'") == [0]
    assert old.stop() == 0
    new = queue.start_worker(PYTHONPATH=str(tmp_path / "src"))
    assert eventually(lambda: queue.has_started("letter") == [new.process.pid], 30)
    assert eventually(lambda: bool(new.jobs(attempt=1, outcome="done")))
    assert eventually(queue.is_empty)


@nats_only
@row("The stream of another service is missing")
def test_another_service_runs_a_job(queue: Queue, tmp_path: Path) -> None:
    shutil.copytree(queue.project / "src", tmp_path / "src")
    (tmp_path / "src" / "my_service" / "works" / "bills.py").write_text(BILLING)
    database = f"billing_{token_hex(4)}"
    with queue.server.connect(autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    url = queue.server.url.replace("app_test", database)
    make_tables(queue.project, url)
    worker = queue.start_worker()
    bills = [f"bill {index}" for index in range(120)]
    queue.insert("Bill", *(json.dumps({"tag": tag}) for tag in bills[1:]))
    assert queue.service.client.post("/bills", json={"tag": bills[0]}).status_code == 202
    for tag in ("keyed", "repeated"):
        parameters = {"key": "key"}
        response = queue.service.client.post("/bills", json={"tag": tag}, params=parameters)
        assert response.status_code == 202
    assert eventually(lambda: "NATS refuses requests" in worker.log)
    # Jobs of this service do not wait behind them.
    queue.add("own")
    assert eventually(lambda: queue.effects() == ["own"])
    assert queue.query("SELECT count(*) FROM jobs WHERE name = 'Bill'") == [121]
    create_stream(queue.project, queue.broker, JOBS_STREAM="billing")
    billing = queue.start_worker(
        DATABASE_URL=url, JOBS_STREAM="billing", PYTHONPATH=str(tmp_path / "src")
    )
    with psycopg.connect(url, autocommit=True) as connection:

        def count() -> int:
            return len(connection.execute("SELECT tag FROM effects").fetchall())

        assert eventually(lambda: count() == 121, 40), worker.log + billing.log
        assert {tag for (tag,) in connection.execute("SELECT tag FROM effects")} == {
            *bills,
            "keyed",
        }
    assert eventually(queue.is_empty)
    assert queue.effects() == ["own"]
    assert billing.stop() == 0
    queue.broker.call("STREAM.DELETE.billing")
    with queue.server.connect(autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(database)))


@nats_only
@row("The stream of another service does not respond")
def test_jobs_go_on_while_another_service_does_not_respond(queue: Queue) -> None:
    worker = queue.start_worker()
    with queue.broker.subscribing("billing.jobs.>") as messages:
        assert queue.service.client.post("/bills", json={"tag": "bill"}).status_code == 202
        for tag in ("first", "second", "third"):  # the relay publishes the bill again
            assert b'"bill"' in next(messages)
            queue.add(tag)
            assert eventually(lambda: tag in queue.effects())  # noqa: B023

    def list_changes() -> list[str]:
        events = [line["event"] for line in worker.events()]
        return [event for event in events if event.startswith("NATS")]

    assert list_changes() == ["NATS refuses requests"]
    assert queue.query("SELECT name FROM jobs WHERE schedule IS NULL") == ["Bill"]
    create_stream(queue.project, queue.broker, JOBS_STREAM="billing")
    assert eventually(lambda: list_changes() == ["NATS refuses requests", "NATS works again"])
    assert eventually(queue.is_empty)
    assert queue.broker.count_messages("billing") == 1
    queue.broker.call("STREAM.DELETE.billing")


@nats_only
def test_jobs_in_the_stream_are_listed_deleted_and_withdrawn(queue: Queue) -> None:
    worker = queue.start_worker("--grace=0", JOBS_CONCURRENCY="1")
    queue.add("busy", deed="wait")
    assert eventually(lambda: bool(queue.has_started("busy")))
    for tag in ("second", "third"):
        queue.add(tag)
    queue.add("fourth", key="key")
    queue.add("later", delay=3600)
    assert eventually(lambda: queue.broker.count_messages() == 4)
    assert eventually(lambda: len(queue.list_jobs()) == 5)
    assert json.loads(queue.command("jobs")) == {
        "due": 3,
        "oldest": ANY,
        "failed": 0,
        "delivered": 1,
    }
    states = [job["state"] for job in queue.list_jobs()]
    assert sorted(states) == ["published"] * 4 + ["waiting"]
    [_, _, _, third, _] = queue.list_jobs()
    assert "was deleted" in queue.command("jobs", "delete", third["id"])
    assert queue.broker.count_messages() == 3

    done = queue.run("jobs", "withdraw")
    assert (done.returncode, done.stdout) == (1, "Error: A worker runs. Stop all workers first.\n")
    done = queue.run("migrate", "--remove", "nats")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        "Error: Jobs may wait in these streams of NATS: my-service. Stop all workers, and run "
        "`jobs withdraw` first, with each of them as JOBS_STREAM."
    )
    assert "Traceback" not in done.stdout
    assert worker.stop() == 0  # it releases its job
    assert queue.broker.count_messages() == 3
    assert queue.command("jobs", "withdraw") == "3 jobs were moved to the table.\n"
    assert queue.broker.count_messages() == 0
    assert {job["state"] for job in queue.list_jobs()} == {"waiting"}
    assert len(queue.list_jobs()) == 4

    try:
        queue.command("migrate", "--remove", "nats")
    finally:
        queue.command("migrate")
    queue.let_go()
    queue.start_worker()
    assert eventually(lambda: len(queue.effects()) == 3)
    assert {"busy", "fourth"} < {*queue.effects()} < {"busy", "second", "third", "fourth"}


@nats_only
def test_jobs_are_not_withdrawn_while_an_idle_worker_runs(queue: Queue) -> None:
    for option in ("--relay", "--no-relay"):
        worker = queue.start_worker(option)
        queue.publish("Note", {"tag": "note"})
        assert eventually(lambda: bool(worker.jobs(outcome="done")))  # noqa: B023
        for _ in range(3):
            done = queue.run("jobs", "withdraw")
            assert done.stdout == "Error: A worker runs. Stop all workers first.\n"
        assert worker.stop() == 0
