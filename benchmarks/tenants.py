"""What organizations cost: the same requests to a service without and with them."""

from contextlib import ExitStack
from statistics import median

import httpx2

from .servers import ITEMS, Bench, Server, running
from .work import Sample, Work, measure

ROUNDS = 5
# A bench, its server, and the requests to it.
Case = tuple[Bench, Server, list[Work]]
BODY = '{"name": "new {number}"}'


def make_works(path: str) -> list[Work]:
    return [
        Work("list", f"{path}?limit=20"),
        Work("read", f"{path}/{{item}}"),
        Work("create", path, "POST", BODY, 201),
    ]


def add_organization(bench: Bench, server: Server) -> str:
    """Add an organization of the first user, with items, and return their path."""
    headers = {"Authorization": f"Bearer {bench.token}"}
    url = f"{server.url}/v1/organizations"
    response = httpx2.post(url, json={"name": "Acme"}, headers=headers).raise_for_status()
    path = f"{response.headers['Location']}/items"
    ids: list[str] = []
    for number in range(ITEMS):
        item = {"name": f"item {number}", "description": "text " * 20}
        response = httpx2.post(f"{server.url}{path}", json=item, headers=headers)
        ids.append(response.raise_for_status().json()["id"])
    bench.ids.write_text("\n".join(ids))
    return path


def measure_all(seconds: int) -> dict[str, dict[str, float]]:
    with ExitStack() as stack:
        benches = {
            organizations: stack.enter_context(running(organizations=organizations))
            for organizations in ("none", "members")
        }
        cases: dict[str, Case] = {}
        for organizations, bench in benches.items():
            server = bench.start("keel")
            bench.log_in(server)
            has_organizations = organizations == "members"
            path = add_organization(bench, server) if has_organizations else "/v1/items"
            cases[organizations] = (bench, server, make_works(path))
        return compare(cases, seconds, figure="cpu")


def compare(cases: dict[str, Case], seconds: int, figure: str) -> dict[str, dict[str, float]]:
    """Return the medians of a figure for two cases, and of its ratio, measured in turn."""
    first, second = cases
    rounds: list[dict[str, dict[str, Sample]]] = [
        {
            name: {work.name: measure(bench, server, work, 20, seconds) for work in works}
            for name, (bench, server, works) in cases.items()
        }
        for _ in range(ROUNDS)
    ]
    samples = [sample for pair in rounds for kind in pair.values() for sample in kind.values()]
    assert sum(sample.errors for sample in samples) == 0
    values = [
        {
            work: (getattr(pair[first][work], figure), getattr(pair[second][work], figure))
            for work in pair[first]
        }
        for pair in rounds
    ]
    return {
        work: {
            first: median(pair[work][0] for pair in values),
            second: median(pair[work][1] for pair in values),
            "ratio": median(pair[work][1] / pair[work][0] for pair in values),
        }
        for work in values[0]
    }
