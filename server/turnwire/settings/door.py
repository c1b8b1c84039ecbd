"""How many may come in, and from where: settings of the door."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import Field, field_validator

from turnwire.settings.kinds import Count, Frozen, Texts, Whole


class DoorSettings(Frozen):
    """Of one process: with several workers, each has these limits of its own."""

    trusted_proxies: Texts = ()
    connections_max: Count = 10_000
    connections_per_address_max: Count = 256
    accepts_per_s: Annotated[Whole, Field(ge=1, le=100_000)] = 200

    @property
    def proxy_networks(self) -> list[IPv4Network | IPv6Network]:
        return [ip_network(text) for text in self.trusted_proxies]

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                network = ip_network(text)
            except ValueError:
                raise ValueError("must be addresses or networks such as 10.1.0.0/16, without host bits") from None
            if network.prefixlen == 0:
                raise ValueError("must not be everyone: whoever is trusted can come in as anybody's address")
        return value
