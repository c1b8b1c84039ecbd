"""The sending half of a connection, where no whole node shows it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from turnwire.core.connection import Close
from turnwire.ports import SessionKey
from turnwire.runtime.sender import Cursor, Gone, OpenCursor, Sender
from turnwire_protocol.codec import JSON
from turnwire_protocol.codes import CloseCode


class Silent:
    """A socket that takes everything, until `gone`."""

    def __init__(self) -> None:
        self.gone = False

    def write(self, messages: Sequence[bytes]) -> bool:
        if self.gone:
            raise Gone
        return True

    async def close(self, code: int) -> None:
        if self.gone:
            raise Gone

    async def drained(self) -> None: ...
    async def receive(self) -> str:
        return ""

    def abort(self) -> None: ...


@pytest.mark.parametrize("gone", [False, True], ids=["closed", "gone"])
async def test_whoever_opens_a_session_while_the_connection_ends_is_not_left_waiting(gone: bool) -> None:
    """A client that floods is closed with many of its commands under way. One that waited for the opening of another,
    which nobody sends any more, kept its connection's tasks for ever, and the server from stopping."""
    nothing: Any = None
    socket = Silent()
    sender = Sender(
        socket, JSON, nothing, nothing, send_timeout_ms=1_000, on_terminal=lambda *_: None, on_emptied=lambda *_: None
    )
    socket.gone = gone
    sender.push(Close(CloseCode.RATE_LIMITED))
    await sender.run()
    cursor = Cursor(sender, SessionKey("alice", "s"), 1)
    assert not sender.push(OpenCursor(cursor, nothing, nothing))
    await asyncio.wait_for(sender.openings_sent(), 5)
