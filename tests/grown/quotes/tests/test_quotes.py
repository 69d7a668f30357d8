from httpx2 import AsyncClient

from .conftest import Telemetry


async def test_a_quote_is_traced_and_counted(client: AsyncClient, telemetry: Telemetry) -> None:
    euros = {"quote.currency": "EUR"}
    before = telemetry.sum("quotes.made", euros)
    telemetry.clear()
    assert (await client.post("/v1/quotes/EUR")).json() == {"currency": "EUR", "amount": 106.0}
    assert telemetry.sum("quotes.made", euros) == before + 1
    [quote] = telemetry.list_spans("make a quote")
    [request] = telemetry.list_spans("POST /v1/quotes/{currency}")
    assert quote.parent == request.context
    [margin] = telemetry.list_spans("find the margin")
    assert margin.parent == quote.context
    assert margin.attributes == euros
