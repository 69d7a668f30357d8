"""What organizations cost: the same requests to a service without and with them."""

from contextlib import ExitStack
from statistics import median
from typing import Any

import httpx2

from .servers import ITEMS, Bench, Server, running
from .work import Work, measure

ROUNDS = 5
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
    """Return the medians of the CPU time per request, and of its ratio, measured in turn."""
    with ExitStack() as stack:
        benches = {
            organizations: stack.enter_context(running(organizations=organizations))
            for organizations in ("none", "members")
        }
        cases: dict[str, tuple[Bench, Server, list[Work]]] = {}
        for organizations, bench in benches.items():
            server = bench.start("keel")
            bench.log_in(server)
            has_organizations = organizations == "members"
            path = add_organization(bench, server) if has_organizations else "/v1/items"
            cases[organizations] = (bench, server, make_works(path))
        rounds: list[dict[str, dict[str, Any]]] = [
            {
                organizations: {
                    work.name: measure(bench, server, work, 20, seconds) for work in works
                }
                for organizations, (bench, server, works) in cases.items()
            }
            for _ in range(ROUNDS)
        ]
    names = [work.name for work in make_works("")]
    errors = sum(
        samples[name].errors for pair in rounds for samples in pair.values() for name in names
    )
    assert errors == 0
    return {
        name: {
            "none": median(pair["none"][name].cpu for pair in rounds),
            "members": median(pair["members"][name].cpu for pair in rounds),
            "ratio": median(pair["members"][name].cpu / pair["none"][name].cpu for pair in rounds),
        }
        for name in names
    }
