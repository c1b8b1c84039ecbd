"""Without an authenticator everyone is the same person."""

import pytest

from turnwire.identity.anonymous import Anonymous


@pytest.mark.parametrize("token", [None, "", "whatever", "x" * 20_000])
async def test_everyone_is_the_same_user_whatever_they_send(token: str | None) -> None:
    identity = await Anonymous().identify(token)
    assert identity is not None
    assert identity.user == "anonymous"
    assert identity.expires_at is None
