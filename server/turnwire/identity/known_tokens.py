"""What all tokens have in common, whoever makes them: one that cannot be read is nobody's, as is one that was ended."""

from turnwire.identity.credentials import KnownCredentials
from turnwire.identity.web_tokens import Unacceptable, told
from turnwire.ports import Identity


class KnownTokens:
    """ports.Authenticator, for those who say in `_identify` whose a token is."""

    def __init__(self, known: KnownCredentials) -> None:
        self._known = known

    async def identify(self, token: str | None) -> Identity | None:
        """Raises Failure where a key is not known here yet and the store does not answer."""
        if token is None:
            return None
        try:
            identity = await self._identify(token)
        except Unacceptable as refusal:
            told(refusal)
            return None
        return identity if self._known.holds(identity) else None

    async def refresh(self) -> bool:
        return await self._known.refresh()

    def holds(self, identity: Identity) -> bool:
        return self._known.holds(identity)

    async def _identify(self, token: str) -> Identity:
        """Raises Unacceptable, Failure."""
        raise NotImplementedError
