"""What features cost the requests that do not use them: a default project beside one with all."""

from contextlib import ExitStack

from breakable import Valkey
from harness import CHOICES

from .servers import running
from .tenants import Case, compare
from .work import WORK

WORKS = [WORK["health"], WORK["claims"], WORK["caller"]]
# The questions whose first value is `none`, with the other one.
FEATURES = {question: values[1] for question, values in CHOICES.items() if values[0] == "none"}


def measure_all(seconds: int) -> dict[str, dict[str, float]]:
    with ExitStack() as stack:
        default = stack.enter_context(running())
        full = stack.enter_context(running(**FEATURES))
        full.ids.write_text("none")  # no organization has items
        valkey = Valkey(full.project)
        valkey.begin()
        full.stack.callback(valkey.halt)
        full.variables |= {
            "CACHE_URL": valkey.url,
            "MAIL_URL": "smtp://127.0.0.1:9",  # where no mail server listens
            "MAIL_SENDER": "no-reply@example.com",
            "MAIL_LINK_URL": "https://app.example.com",
        }
        cases: dict[str, Case] = {}
        for name, bench in {"default": default, "full": full}.items():
            server = bench.start("keel")
            bench.log_in(server)
            cases[name] = (bench, server, WORKS)
        return compare(cases, seconds, figure="rate")
