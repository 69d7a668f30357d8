"""The workers of a rendered project while servers of a NATS cluster are killed."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from breakable import COMMAND, Nats, Postgres, opening_postgres, row
from harness import eventually, succeed
from postgres import HOST, free_port
from workers import Load, Queue, make_path, make_project, opening_queue

SERVERS = 3


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="cluster-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with opening_postgres() as postgres:
        yield postgres


@pytest.fixture(scope="module")
def project(template: Path, server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "rendered"
    return make_project(template, folder, server, "nats")


@pytest.fixture(scope="module")
def brokers(project: Path, folder: Path) -> Iterator[list[Nats]]:
    ports = [free_port() for _ in range(SERVERS)]
    routes = ", ".join(f"nats-route://{HOST}:{port}" for port in ports)
    brokers: list[Nats] = []
    for number, port in enumerate(ports):
        (folder / str(number)).mkdir()
        nats = Nats(project, folder / str(number))
        nats.cluster = (
            f"server_name: server-{number}",
            f'cluster {{ name: test, listen: "{HOST}:{port}", routes: [{routes}] }}',
        )
        nats.password = brokers[0].password if brokers else nats.password
        brokers.append(nats)
    with ExitStack() as stack:
        for nats in brokers:
            nats.begin()
            stack.callback(nats.halt)
        assert eventually(lambda: has_leader(brokers[0]), 60)
        urls = ",".join(broker.url for broker in brokers)
        create = ("jobs", "create-stream", "--replicas", str(SERVERS))
        succeed(project, COMMAND, *create, JOBS_NATS_URL=urls, PATH=make_path(project))
        yield brokers


@pytest.fixture
def queue(project: Path, server: Postgres, brokers: list[Nats], tmp_path: Path) -> Iterator[Queue]:
    assert eventually(lambda: is_whole(brokers[0]), 60)
    with opening_queue(project, server, [*brokers], tmp_path) as queue:
        yield queue


def ask(broker: Nats, function: str) -> dict[str, Any]:
    """Call a function of JetStream's API. Without a leader, there is no response, or an error."""
    with suppress(TimeoutError):
        return broker.request(f"$JS.API.{function}")
    return {}


def has_leader(broker: Nats) -> bool:
    """Whether the cluster can create a stream."""
    return "streams" in ask(broker, "STREAM.NAMES")


def get_cluster(broker: Nats) -> dict[str, Any]:
    """Return the state of the stream's replicas, or nothing if it has no leader."""
    return ask(broker, f"STREAM.INFO.{COMMAND}").get("cluster", {})


def find_leader(brokers: list[Nats]) -> Nats:
    assert eventually(lambda: "leader" in get_cluster(brokers[0]), 60)
    leader = get_cluster(brokers[0])["leader"]
    return brokers[int(leader.removeprefix("server-"))]


def is_whole(broker: Nats) -> bool:
    """Whether all replicas are there, and have all jobs."""
    replicas = get_cluster(broker).get("replicas", [])
    return len(replicas) == SERVERS - 1 and all(replica["current"] for replica in replicas)


@row("A server of a NATS cluster is killed")
@pytest.mark.parametrize("victim", ["leader", "follower"])
def test_a_cluster_that_loses_a_server_loses_no_job(queue: Queue, victim: str) -> None:
    workers = [queue.start_worker() for _ in range(2)]
    queue.add("long", seconds=20)
    assert eventually(lambda: bool(queue.has_started("long")))
    with Load(queue) as load:
        load.wait(50)
        leader = find_leader(queue.brokers)
        others = [broker for broker in queue.brokers if broker is not leader]
        killed = leader if victim == "leader" else others[0]
        killed.kill()
        queue.brokers.sort(key=lambda broker: broker is killed)
        load.wait(50)
        # Jobs run while the server is down.
        queue.add("during")
        assert eventually(lambda: "during" in queue.effects(), 60), queue.workers[0].log
        killed.begin()
        load.wait(50)
    assert eventually(lambda: is_whole(queue.broker), 60)
    assert eventually(queue.is_empty, 90), queue.list_jobs()
    assert queue.effects() == sorted([*load.tags, "long", "during"])
    for worker in workers:
        assert worker.stop() == 0


@row("Most servers of a NATS cluster are killed")
def test_jobs_wait_for_a_majority_of_the_cluster(queue: Queue) -> None:
    workers = [queue.start_worker() for _ in range(2)]
    with Load(queue) as load:
        load.wait(50)
        for broker in queue.brokers[1:]:
            broker.kill()
        load.wait(50)  # requests are accepted
        for worker in workers:
            assert eventually(lambda log=worker: "NATS " in log.log, 60)
        for broker in queue.brokers[1:]:
            broker.begin()
        load.wait(50)
        # A relay says it when it has published a job again.
        for worker in workers:
            assert eventually(lambda log=worker: "NATS works again" in log.log, 60)
    assert eventually(lambda: is_whole(queue.broker), 60)
    assert eventually(queue.is_empty, 90), queue.list_jobs()
    assert queue.effects() == sorted(load.tags)
    for worker in workers:
        assert worker.stop() == 0
