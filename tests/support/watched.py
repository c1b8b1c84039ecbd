"""A chat client whose every frame passes the grammar verifier."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from turnwire.chat.connection import ChatConnection, Token
from turnwire.chat.wire import Backoff, OnFrame, endpoint_of
from turnwire_protocol.codec import JSON, MSGPACK
from turnwire_protocol.grammar import History, Verifier
from turnwire_protocol.rules import RuleBroken


class Watched:
    """`chat` is the client. `history` may be shared by several clients of one user.

    `url` is asked for before each connection, where it is a function: a client that was cut off may go elsewhere.
    `on_connect` and `on_frame` are told what the verifier is told, before it.

    A broken rule is kept in `broken`, because a callback's exception would only end the client's connection; call
    `check` at the end.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        codec: Literal["json", "msgpack"] = "json",
        token: Token | None = None,
        history: History | None = None,
        # A client that was cut off comes back at once: what is tested is the resume, not the wait before it.
        backoff: Backoff = lambda _tries: 0.0,
        on_connect: Callable[[], None] = lambda: None,
        on_frame: OnFrame = lambda _sender, _frame: None,
    ) -> None:
        self.history = History() if history is None else history
        self.broken: list[RuleBroken] = []
        self.frames = 0
        self.seen: set[str] = set()
        """Types of all frames that have come."""
        self.started: Counter[str] = Counter()
        """How often each turn was told to have started."""
        self.connections = 0
        self._codec = JSON if codec == "json" else MSGPACK
        self._verifier = Verifier(self.history, codec=self._codec)
        self._url = (lambda: url) if isinstance(url, str) else url
        self._tell_connect = on_connect
        self._tell_frame = on_frame
        self.chat = ChatConnection(
            self._url(),
            codec=codec,
            token=token,
            backoff=backoff,
            on_frame=self._on_frame,
            on_status=self._on_status,
        )

    def check(self) -> None:
        """Raise the first rule that was broken."""
        if self.broken:
            raise self.broken[0]
        self._verifier.finish()

    def _on_status(self, status: str, _reason: str) -> None:
        if status == "connecting":
            self.connections += 1
            self.chat.url = endpoint_of(self._url())
            self._tell_connect()
            self._verifier = Verifier(self.history, codec=self._codec)

    def _on_frame(self, sender: Literal["client", "server"], frame: dict[str, Any]) -> None:
        if sender == "server":
            self.frames += 1
            self.seen.add(frame["type"])
            if frame["type"] == "turn.started":
                self.started[frame["turn"]] += 1
        self._tell_frame(sender, frame)
        try:
            if sender == "client":
                self._verifier.client_sent(frame)
            else:
                self._verifier.server_sent(frame)
        except RuleBroken as rule:
            self.broken.append(rule)
