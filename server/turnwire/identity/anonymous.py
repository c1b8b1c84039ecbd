"""Everyone is one user: for a server on one's own machine, and for whoever says so in so many words.

A token is not looked at, so a client that sends one anyway works here too. Must never be chosen by default on an
address that others can reach; settings.py sees to that.
"""

from typing import Final

from turnwire.ports import Identity

USER: Final = "anonymous"


class Anonymous:
    """ports.Authenticator."""

    async def identify(self, token: str | None) -> Identity | None:
        return Identity(USER)

    async def refresh(self) -> bool:
        return False

    def holds(self, identity: Identity) -> bool:
        return True
