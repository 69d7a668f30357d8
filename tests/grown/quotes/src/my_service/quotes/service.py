from opentelemetry.metrics import get_meter
from pydantic import BaseModel

from ..telemetry import start_span, traced

QUOTES = get_meter(__name__).create_counter(
    "quotes.made", unit="{quote}", description="Quotes by currency."
)


class Quote(BaseModel):
    currency: str
    amount: float


class QuoteService:
    @traced("make a quote")
    async def make(self, currency: str) -> Quote:
        with start_span("find the margin", attributes={"quote.currency": currency}):
            margin = 0.02 * len(currency)
        QUOTES.add(1, {"quote.currency": currency})
        return Quote(currency=currency, amount=100 * (1 + margin))
