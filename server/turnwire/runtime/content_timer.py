"""The deadlines of one upstream request, on content alone.

Only content moves a deadline. Pings never get here, and usage reports do not count. The timer is looked at when it
rings, not set anew for each token: it costs a stream nothing.
"""

import asyncio
from types import TracebackType
from typing import Literal, Self

from turnwire.ports import Deadlines, Failure


class ContentTimer:
    """Ends its context with a Failure when content does not come in time.

    Between `hold` and what follows it the sink has the time, not the model. Only the total deadline runs on there, to
    strike when the sink is done.
    """

    def __init__(self, deadlines: Deadlines, total_at: float) -> None:
        """`total_at` is a time of the running loop, in seconds."""
        self._deadlines = deadlines
        self._total_at = total_at
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._kind: Literal["timeout_first_content", "timeout_idle"] = "timeout_first_content"
        self._allowed_s = deadlines.first_content / 1000
        self._idle_s = deadlines.idle / 1000
        self._since = self._loop.time()
        self._held_at: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = 0.0
        self._rang = False

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._set()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            if self._loop.time() >= self._total_at:
                raise Failure("timeout_total", f"no end within {self._deadlines.total} ms") from late
            raise Failure(self._kind, f"no content for {round(self._allowed_s * 1000)} ms") from late

    def hold(self) -> None:
        self._held_at = self._loop.time()
        if self._rang:
            # In the same moment there was something after all.
            self._rang = False
            self._timeout.reschedule(None)

    def begin_anew(self) -> None:
        """There was content: from now on the idle deadline counts."""
        self._kind = "timeout_idle"
        self._allowed_s = self._idle_s
        self._since = self._loop.time()
        self._held_at = None
        self._look()

    def go_on(self) -> None:
        """There was none: the time before counts on."""
        if self._held_at is not None:
            self._since += self._loop.time() - self._held_at
            self._held_at = None
        self._look()

    def _look(self) -> None:
        """A timer that rings too early is no harm, one that rings too late is."""
        if self._handle is None or self._due() < self._handle_at:
            self._set()

    def _due(self) -> float:
        return min(self._since + self._allowed_s, self._total_at)

    def _set(self) -> None:
        self._clear()
        self._handle_at = self._due()
        self._handle = self._loop.call_at(self._handle_at, self._ring)

    def _clear(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle = None
        if self._held_at is not None:
            return
        if self._loop.time() < self._due():
            self._set()
        else:
            self._rang = True
            self._timeout.reschedule(self._loop.time())
