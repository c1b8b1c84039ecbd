"""The few seams between the runtime and the world, on one page, with what each guarantees.

The runtime knows these and nothing of what stands behind them. An adapter raises Failure and no exception of its
library; whoever calls it may rely on the guarantees in prose here, and the contract tests hold every adapter to them.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from turnwire.core.credentials import ApiKey, Bearer, Credentials, Identity, Scope
from turnwire.core.entries import Entry, Event, Message, ProviderEvent
from turnwire.core.errors import RETRYABLE, FailureKind
from turnwire.core.log_values import (
    Accepted,
    AcceptRequest,
    Appended,
    Batch,
    Cancelled,
    Claim,
    Claimed,
    Counted,
    Deleted,
    ListPlace,
    LogRange,
    Nudge,
    Renewed,
    Responded,
    Seal,
    SessionChange,
    SessionInfo,
    SessionKey,
    SessionPage,
    SessionView,
    StoredTurn,
    Taken,
    TurnKey,
    TurnPage,
    Updated,
)
from turnwire.core.proposal import ProposedTurn, Refusal
from turnwire.core.quotas import Plan, SubjectKind, Used
from turnwire.core.spending import Budget, Price
from turnwire.core.upstream_health import Retries


class Failure(Exception):
    """Something outside failed. Carries numbers and a kind; `detail` is for logs, never for users, never content."""

    def __init__(
        self,
        kind: FailureKind,
        detail: str = "",
        *,
        retry_after_ms: int | None = None,
        may_retry: bool | None = None,
    ) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind: FailureKind = kind
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        self.may_retry = kind in RETRYABLE if may_retry is None else may_retry


# --- the log ------------------------------------------------------------------------------------------------------


class SessionLog(Protocol):
    """The one store of truth.

    Every write is atomic and idempotent: after a lost reply the same call may be repeated and changes nothing more.
    Every call first learns whether the store's history may have been lost unseen (failover, restart) and then gives the
    session a new gen. Calls raise Failure("store_away") when no definite answer came; append_many and renew_leases
    answer `away` for each item instead. No task is ever cancelled inside a call by the adapter, and callers must not
    either: shield what may be cancelled.
    """

    async def accept_turn(self, request: AcceptRequest) -> Accepted: ...
    async def append_many(self, batches: Sequence[Batch]) -> Sequence[Appended]:
        """Append each batch, in one pipeline; answers in the same order. At most one batch a turn."""
        ...

    async def seal_many(self, batches: Sequence[Batch]) -> Sequence[Appended]:
        """The same for batches that end turns, beside append_many. Where the store has replicas, the answers come when
        a replica has the terminals too, or after a while without: that is logged, and counted in `unreplicated`."""
        ...

    async def renew_leases(self, leases: Sequence[tuple[TurnKey, str]]) -> Sequence[Renewed]: ...
    async def take_turn(self, key: TurnKey, nonce: str, claim: Claim = "overdue") -> Taken: ...
    async def overdue_turns(self, count_max: int) -> Sequence[TurnKey]:
        """Turns whose lease, or whose time in the queue or parked, ran out; ownerless ones first."""
        ...

    async def cancel_turn(self, key: TurnKey, by: str, reason: str) -> Cancelled: ...
    async def respond_turn(self, key: TurnKey, request: str, by: str, value: bytes) -> Responded: ...
    async def read_view(self, key: SessionKey, history: int) -> SessionView: ...
    async def read_range(self, key: SessionKey, after_seq: int, count_max: int) -> LogRange: ...
    async def read_branch(self, key: TurnKey, count_max: int) -> Sequence[StoredTurn]:
        """The turn and its ancestors, newest first."""
        ...

    async def read_turns(self, key: SessionKey, before: str | None, count_max: int) -> TurnPage | None:
        """The newest turns, or those accepted before a turn, whole. None: there is no such session, or no turn
        `before`. A page may hold fewer than `count_max` because it would be too large; `next` leads on all the same.
        """
        ...

    async def read_answers(self, key: TurnKey) -> Mapping[str, bytes]:
        """What was answered to a turn's asks: request to JSON value."""
        ...

    async def list_sessions(self, owner: str, before: ListPlace | None, count_max: int) -> SessionPage:
        """Newest write first. Whoever follows `next` meets each session that is not written to meanwhile once, and no
        session twice. A page may hold fewer than `count_max`, even none, and lead on."""
        ...

    async def read_session(self, key: SessionKey) -> SessionInfo | None: ...
    async def update_session(self, key: SessionKey, change: SessionChange) -> Updated | None:
        """Change title or metadata and log it as `session.updated`; what changes nothing is not logged. None: there is
        no such session."""
        ...

    async def delete_session(self, key: SessionKey, nonce: str) -> Deleted | None:
        """Remove a session, end its turns, and keep its name taken for a while. None: there is none. The same nonce
        again gets the same answer. Readers are told by a `deleted` nudge, the holder of the active turn by a `cancel`
        nudge; a writer that is told of neither finds its batches answered `gone`."""
        ...

    async def forget_owner(self, owner: str) -> bool:
        """Remove what an owner has beside sessions. Whether there was anything."""
        ...

    async def watch(self, key: SessionKey) -> None:
        """Receive `grown` and `deleted` nudges of this session; in force, confirmed by the store, when this returns."""
        ...

    async def unwatch(self, key: SessionKey) -> None: ...

    async def note_watched(self, keys: Sequence[SessionKey]) -> Sequence[LogRange]:
        """Mark the sessions as watched now (Renewed.unwatched_ms), and tell gen, head and overdue of each."""
        ...

    def nudges(self) -> AsyncIterator[Nudge]:
        """Never ends by itself. `reset` after the subscription was lost and made again: anything may be missed."""
        ...

    async def ping(self) -> None:
        """Raises Failure("store_away") unless everything works that a node needs of the store."""
        ...

    @property
    def history(self) -> str:
        """Names the store's history as this node last saw it: another name after a restart or failover of the store,
        when the newest of what was written may be gone."""
        ...

    @property
    def unreplicated(self) -> int:
        """How many terminals too few replicas confirmed in time, since this node came up."""
        ...

    @property
    def recovering(self) -> bool:
        """Whether the store's history changed so lately that writers may still be putting back what was lost."""
        ...

    @property
    def unsettled(self) -> bool:
        """Whether that may be so: also when this node came up so lately that it cannot know."""
        ...


class QuotaStore(Protocol):
    """Counts beside the log, exact over all nodes: what several owners share, and connections. Calls raise Failure, and
    may be repeated. Places and unconfirmed claims are leased for half a minute: those of a node that died come free."""

    async def claim(self, kind: SubjectKind, name: str, plan: Plan, turn: TurnKey, estimate: Used) -> Claimed:
        """Claim for a turn that is not accepted yet."""
        ...

    async def give_back(self, kind: SubjectKind, name: str, plan: Plan, turn: TurnKey, estimate: Used) -> None:
        """The turn was refused: its claim, and its place in the minute."""
        ...

    async def confirm(self, turn: TurnKey, counted: Counted) -> None: ...  # it waits: a claim, and no place to run
    async def hold(self, turns: Sequence[tuple[TurnKey, Counted]]) -> None: ...  # they run: again and again

    async def settle(self, turn: TurnKey, counted: Counted, used: Used) -> None: ...
    async def unsettled(self, count_max: int) -> Sequence[tuple[TurnKey, Counted, Used]]:
        """Turns that are over for a while and were not settled: their node died first."""
        ...

    async def left(self, kind: SubjectKind, name: str, plan: Plan) -> Sequence[int | None]:
        """Of each limit, in the order of quotas.COUNTED."""
        ...

    async def enter(self, kind: SubjectKind, name: str, connection: str, connections_max: int) -> bool:
        """Take a place for a connection; False: all are taken."""
        ...

    async def stay(self, places: Sequence[tuple[SubjectKind, str, str]]) -> None: ...
    async def leave(self, places: Sequence[tuple[SubjectKind, str, str]]) -> None: ...


# --- providers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deadlines:
    """All in ms; `connect` is one attempt's, `connect_total` all attempts' and fallbacks' together."""

    connect: int = 5_000
    connect_total: int = 12_000
    first_content: int = 30_000
    idle: int = 30_000
    total: int = 600_000


@dataclass(frozen=True, slots=True)
class StepRequest:
    """One upstream request."""

    messages: Sequence[Message]
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    tools: Sequence[dict[str, Any]] = ()
    response_format: dict[str, Any] | None = None
    output_tokens_max: int | None = None
    deadlines: Deadlines = field(default_factory=Deadlines)


class Provider(Protocol):
    """One configured model.

    `stream` opens the upstream request on entering and closes its socket on leaving, whatever happens in between:
    when the context has been left, the provider has been told to stop. Entering waits for the response's headers and
    raises Failure within `deadlines.connect` (connecting) or `deadlines.first_content` (headers). The iterator yields
    lists of events, ends only after a Finish, and raises Failure otherwise; content deadlines are the caller's.
    """

    name: str

    def stream(self, request: StepRequest) -> AbstractAsyncContextManager[AsyncIterator[Sequence[ProviderEvent]]]: ...


@dataclass(frozen=True, slots=True)
class Model:
    """What a client may choose by name."""

    name: str
    provider: Provider
    fallback: Sequence[str] = ()
    system_prompt: str | None = None
    context_tokens: int = 128_000
    output_tokens_max: int = 4_096
    client_params: frozenset[str] = frozenset()
    images: bool = False
    """Whether it takes images in the input."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    retries: Retries = field(default_factory=Retries)
    price: Price | None = None
    budget: Budget | None = None
    """What one turn that chose this model may spend, whichever models answer it."""


# --- who and when -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Minted:
    """A new token, and when it ends (ms since 1970)."""

    token: str
    expires_at: int


class Authenticator(Protocol):
    """Tells who a token belongs to."""

    async def identify(self, token: str | None) -> Identity | None:
        """None when it belongs to nobody, for whatever reason: whoever brings it is not told which."""
        ...

    async def refresh(self) -> bool:
        """Learn what was revoked since; whether anything changed. Raises Failure."""
        ...

    def holds(self, identity: Identity) -> bool:
        """Whether an identity from here is still one, as far as is known since the last `refresh`."""
        ...


class CredentialStore(Protocol):
    """API keys, and whose tokens were ended. Every node reads it every few seconds. Calls raise Failure."""

    async def read(self, version: str, since_ms: int) -> Credentials | None:
        """All keys, and the ends since a time; None while the version is the one that is known. A store that has
        nothing has the version ""."""
        ...

    async def add_key(self, key: ApiKey) -> bool:
        """False: there are too many."""
        ...

    async def remove_key(self, key_id: str) -> bool:
        """False: there was none."""
        ...

    async def end_tokens(self, user: str) -> int:
        """End all tokens that were issued to a user up to now, which is returned."""
        ...

    async def now_ms(self) -> int:
        """The time by the clock that ends are stamped with."""
        ...


class TokenMint(Protocol):
    """Makes tokens for browsers."""

    async def mint(self, by: Identity, bearer: Bearer, scopes: frozenset[Scope], life_ms: int) -> Minted | None:
        """A token of `bearer` that ends after `life_ms`, or with the API key that `by` is. None: that key is no more.
        Raises Failure."""
        ...

    async def end_tokens(self, user: str) -> None:
        """End all tokens of a user, on every node within seconds. Raises Failure."""
        ...


class InputGuard(Protocol):
    """Code of the operator's that may refuse turns before they are accepted."""

    async def __call__(self, turn: ProposedTurn, /) -> Refusal | None:
        """None: it may be accepted. May be asked about one turn several times, may raise anything, and may take longer
        than it is waited for."""
        ...


class Clock(Protocol):
    def now_ms(self) -> int:
        """Wall time, ms since 1970: for what people read."""
        ...

    def monotonic_ms(self) -> int:
        """For deadlines: never goes back."""
        ...


__all__ = [
    "AcceptRequest",
    "Accepted",
    "ApiKey",
    "Appended",
    "Authenticator",
    "Batch",
    "Bearer",
    "Cancelled",
    "Claim",
    "Claimed",
    "Clock",
    "Counted",
    "CredentialStore",
    "Credentials",
    "Deadlines",
    "Deleted",
    "Entry",
    "Event",
    "Failure",
    "Identity",
    "InputGuard",
    "ListPlace",
    "LogRange",
    "Minted",
    "Model",
    "Nudge",
    "ProposedTurn",
    "Provider",
    "QuotaStore",
    "Refusal",
    "Renewed",
    "Responded",
    "Retries",
    "Scope",
    "Seal",
    "SessionChange",
    "SessionInfo",
    "SessionKey",
    "SessionLog",
    "SessionPage",
    "SessionView",
    "StepRequest",
    "StoredTurn",
    "Taken",
    "TokenMint",
    "TurnKey",
    "TurnPage",
    "Updated",
]
