"""The references of the benchmarks do the same work as the rendered service."""

import shutil
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from harness import UV, succeed

from benchmarks import HERE
from benchmarks.servers import NAMES, PACKAGE, Bench, Server, running
from benchmarks.work import WORKS, Work

pytestmark = pytest.mark.xdist_group("benchmarks")

PROTECTED = [work for work in WORKS if work.name not in {"health", "sign in"}]
# Fields that differ in each response.
NEW = {"id", "created_at", "updated_at", "request_id", "access_token", "refresh_token"}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with running() as bench:
        yield bench


@pytest.fixture(scope="module")
def servers(bench: Bench) -> list[Server]:
    servers = [bench.start(name) for name in NAMES]
    bench.log_in(servers[0])
    return servers


def ask(bench: Bench, server: Server, work: Work) -> httpx2.Response:
    path = work.path.format(item=bench.ids.read_text().split()[0])
    body = work.body.replace("{user}", "1").replace("{number}", "1")
    headers = {"Authorization": f"Bearer {bench.token}", "Content-Type": work.type}
    return httpx2.request(work.method, server.url + path, content=body, headers=headers)


def compare(answer: Any, *, is_read: bool) -> Any:
    """Return what must be equal: values that are read, and the names of fields that are written."""
    if is_read:
        return answer
    return {name: value if name not in NEW else type(value) for name, value in answer.items()}


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_all_services_give_the_same_response(
    bench: Bench, servers: list[Server], work: Work
) -> None:
    answers = [ask(bench, server, work) for server in servers]
    assert {answer.status_code for answer in answers} == {work.status}
    is_read = work.method == "GET"
    first, *others = [compare(answer.json(), is_read=is_read) for answer in answers]
    assert others == [first] * len(others)


@pytest.mark.parametrize("work", PROTECTED, ids=lambda work: work.name)
def test_all_services_refuse_a_wrong_token(bench: Bench, servers: list[Server], work: Work) -> None:
    forged = Bench(**vars(bench) | {"token": bench.token[:-8] + "AAAAAAAA"})
    assert {ask(forged, server, work).status_code for server in servers} == {401}


def test_the_references_pass_the_type_checker(bench: Bench) -> None:
    # A copy, because pyrefly uses the configuration next to a file.
    for name in ("floor.py", "framed.py", "plain.py"):
        shutil.copy(HERE / name, bench.project)
    sources = ["floor.py", "framed.py", "plain.py", str(PACKAGE / "extension.py")]
    succeed(bench.project, UV, "run", "pyrefly", "check", *sources)
