"""uvicorn's HTTP protocol with the deadlines and the door that it lacks.

uvicorn waits for a request for as long as its peer likes, and for an answer to be read. Here a request's head has to
come within ten seconds, and so has some progress in reading an answer; otherwise the connection is dropped. (Bodies
have a deadline where they are read, requests.py.) A WebSocket begins here too, so here it is let in or not.
"""

import asyncio
from typing import Any, Final, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from turnwire.transports.door import Door, Refusal

HEAD_MS: Final = 10_000
STALLED_MS: Final = 10_000
HEAD_BYTES_MAX: Final = 32_768
"""A token of the largest size, and what else browsers and proxies send."""

_ANSWERS: Final[dict[Refusal, bytes]] = {"full": b"503 Service Unavailable", "address": b"429 Too Many Requests"}


class TurnwireConfig(uvicorn.Config):
    """uvicorn's, and the door that all connections of the process come through."""

    def __init__(self, app: Any, *, door: Door, **options: Any) -> None:
        super().__init__(
            app,
            http=TurnwireHttp,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            # Forwarded addresses count at the door, and only from proxies that are named there.
            proxy_headers=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            **options,
        )
        self.door = door


class TurnwireHttp(H11Protocol):
    """One connection, until it becomes a WebSocket."""

    def __init__(self, config: uvicorn.Config, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._door = cast("TurnwireConfig", config).door
        self._head_timer: asyncio.TimerHandle | None = None
        self._stalled_timer: asyncio.TimerHandle | None = None
        self._upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        refusal = self._door.enter(transport, self.client[0] if self.client else None)
        if refusal is not None:
            self._turn_away(refusal)
        else:
            self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self.transport)
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def send_400_response(self, *arguments: Any, **options: Any) -> None:
        """What came is no HTTP. Amid a request that is being answered there is nobody to tell: the call is over, and
        its application's answer, which h11 would take for a fault, goes nowhere."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete:
            super().send_400_response(*arguments, **options)
            return
        cycle.disconnected = True
        cycle.message_event.set()
        if not cycle.response_started:
            super().send_400_response(*arguments, **options)
        self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        forwarded = [value.decode("latin-1") for name, value in self.headers if name == b"x-forwarded-for"]
        peer = self.client[0] if self.client else None
        refusal = self._door.come_through_proxy(self.transport, peer, forwarded)
        self._upgraded = True
        self._stop_timers()
        if refusal is not None:
            self.connections.discard(self)
            self._turn_away(refusal)
            return
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled_timer is not None:
            self._stalled_timer.cancel()
            self._stalled_timer = None

    # --- within ---------------------------------------------------------------------------------------------------

    def _watch_head(self) -> None:
        """While no request is being answered, the rest of the next one's head has a deadline, from its first byte."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        waiting = not self._upgraded and (
            cycle is None or (cycle.response_complete and self.conn.trailing_data[0] != b"")
        )
        if not waiting and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        elif waiting and self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_MS / 1000, self.transport.abort)

    def _watch_reading(self, unread: int | None = None) -> None:
        """Drop a peer that has read nothing of its answer since the last look, when `unread` bytes were left."""
        left = self.transport.get_write_buffer_size()
        if left == unread:
            self.transport.abort()
        else:
            self._stalled_timer = self.loop.call_later(STALLED_MS / 1000, self._watch_reading, left)

    def _turn_away(self, refusal: Refusal) -> None:
        head = b"HTTP/1.1 %s\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        self.transport.write(head % _ANSWERS[refusal])
        self.transport.close()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._stalled_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._stalled_timer = None
