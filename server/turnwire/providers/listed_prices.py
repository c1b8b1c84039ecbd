"""Prices of models that turnwire.toml gives none for, from the list in the package genai-prices, where it is installed.

The list is the package's own, as of its release: nothing is fetched. It is asked by the address of the service and its
own name of the model, never by the name alone, because the same model costs differently elsewhere.
"""

from decimal import Decimal
from typing import Any

from turnwire.core.entries import UsageReport
from turnwire.core.spending import Price


class ListedPrice:
    """core.spending.Price. The list knows tiers and times of day, so it is asked for each cost."""

    def __init__(self, genai_prices: Any, base_url: str, model: str) -> None:
        """Raises LookupError when the list does not have the model."""
        self._list = genai_prices
        self._base_url = base_url
        self._model = model
        self.cost_of(UsageReport(0, 0))

    def cost_of(self, usage: UsageReport) -> Decimal:
        tokens = self._list.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=min(usage.cached_input_tokens or 0, usage.input_tokens),
        )
        priced = self._list.calc_price(tokens, self._model, provider_api_url=self._base_url)
        return Decimal(priced.total_price)


def listed_price(base_url: str, model: str) -> Price | None:
    """None when the list is not installed, or does not have the model."""
    try:
        import genai_prices
    except ImportError:
        return None
    try:
        return ListedPrice(genai_prices, base_url, model)
    except LookupError:
        return None
