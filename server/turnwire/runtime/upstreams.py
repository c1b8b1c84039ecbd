"""What this node knows of each model's service: it outlives turns, which core.upstream_health decides by.

By model, not by host: rate limits are a model's, and two models of one host find out about its end by themselves.
"""

from turnwire.core.upstream_health import UpstreamHealth
from turnwire.ports import Model


class Upstreams:
    """One a node. There are as many services as configured models."""

    def __init__(self) -> None:
        self._health: dict[str, UpstreamHealth] = {}

    def health_of(self, model: Model) -> UpstreamHealth:
        """The service of this model; by name, as the settings have it."""
        known = self._health.get(model.name)
        if known is None:
            retries = model.retries
            known = self._health[model.name] = UpstreamHealth(retries.budget_percent, retries.failures_max)
        return known
