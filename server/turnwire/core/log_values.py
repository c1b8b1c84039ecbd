"""What is said to a session's log and what it answers, as plain values.

These are the arguments and results of ports.SessionLog; the guarantees of its calls stand there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from turnwire.core.entries import Entry, Logged
from turnwire.core.quotas import NOTHING, UNLIMITED, Limit, Plan, SubjectKind, Used


@dataclass(frozen=True, slots=True)
class SessionKey:
    """A session as its owner names it; another owner's session of the same id is another key."""

    owner: str
    session: str

    def turn(self, turn: str) -> "TurnKey":
        return TurnKey(self.owner, self.session, turn)


@dataclass(frozen=True, slots=True)
class TurnKey:
    owner: str
    session: str
    turn: str

    @property
    def session_key(self) -> SessionKey:
        return SessionKey(self.owner, self.session)


@dataclass(frozen=True, slots=True)
class Counted:
    """How a turn counts against quotas. `plan` is its owner's; `estimate` is claimed until the turn is over.

    `org` and `address` have claims of the turn too, which others than the log keep. `others` is what they say of it:
    it may run, it may but `wait` in the queue, or `refuse` it.
    """

    estimate: Used
    plan: Plan = UNLIMITED
    org: str | None = None
    address: str | None = None
    others: Literal["", "wait", "refuse"] = ""

    @property
    def shared(self) -> Sequence[tuple[SubjectKind, str]]:
        """Whose quotas it has claims on, beside its owner's."""
        named: list[tuple[SubjectKind, str | None]] = [("org", self.org), ("address", self.address)]
        return [(kind, name) for kind, name in named if name is not None]


@dataclass(frozen=True, slots=True)
class Claimed:
    """The answer to a claim on a shared quota. `limit` None: all was claimed. `turns_running`: all but a place to run,
    so that the turn may wait in a queue. Any other: nothing. `retry_after_ms` 0: nobody knows."""

    limit: Limit | None
    retry_after_ms: int
    left: Sequence[int | None]


@dataclass(frozen=True, slots=True)
class AcceptRequest:
    """A validated turn.create, ready to be stored."""

    key: TurnKey
    nonce: str
    """128 random bits. Becomes the lease's nonce; the same nonce again gets the same answer."""
    digest: str
    body: bytes
    """JSON object: the fields of turn.accepted but parent, state, at."""
    spec: bytes
    """JSON object: all that a run needs (input, model, params, ...), given back by take_turn and read_branch."""
    cancelled_body: bytes
    """JSON object: the body of this turn's turn.done, should it be cancelled before it ran."""
    parent: Literal["leaf", "root"] | tuple[str]
    """The session's newest turn, none, or a 1-tuple naming one."""
    on_busy: Literal["reject", "queue", "interrupt"] = "reject"
    author: str = ""
    cancel_after_ms: int | None = None
    """Stop the turn when nobody has watched its session for this long; None: never."""
    preview: str = ""
    """How the input begins, for lists; the session keeps the first one that is not empty. Never logged."""
    counted: Counted | None = None
    """None: no quota knows of it."""
    put_back: bool = False
    """The store has lost this turn, and its writer has it in memory: it runs, whatever its parent has become, and a
    cancel that came meanwhile waits for the writer. Another turn in its place answers `busy`."""
    taken_from: str | None = None
    """The nonce of the writer that this one took the turn from, who may have it again where the store lost that."""
    predecessor: str | None = None
    """The session's newest turn when this one was accepted. One that is put back while that is missing is `too_early`:
    it may be on its way back, too. None: wherever it comes."""

    def placed(self, accepted: "Accepted") -> "AcceptRequest":
        """With the place that it was given."""
        parent = "root" if accepted.parent is None else (accepted.parent,)
        return replace(self, parent=parent, predecessor=accepted.predecessor)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an AcceptRequest.

    `running`: the lease is this node's. `queued`: it waits. `sealed`: a cancel had come first, the turn is over.
    `duplicate`: it was accepted before. The others were refused and left no trace: `conflict` (same id, other
    content), `busy`, `queue_full`, `deleted`, `no_parent`, `too_early` (its predecessor is missing), `limited` (by
    `limit` of its owner's plan, or by `others`).
    """

    result: Literal[
        "running",
        "queued",
        "sealed",
        "duplicate",
        "conflict",
        "busy",
        "queue_full",
        "deleted",
        "no_parent",
        "too_early",
        "limited",
    ]
    gen: str = ""
    seq: int = 0
    """Of its turn.accepted."""
    parent: str | None = None
    logged: Sequence[Logged] = ()
    """All that this accept appended, cancels of other turns included, in order."""
    interrupted: str | None = None
    """The running turn that on_busy interrupt asked to stop."""
    next: str | None = None
    active: str | None = None
    """Of `busy`: the turn that stands in its way."""
    left: Sequence[int | None] = ()
    """What is left of the owner's limits, in the order of quotas.COUNTED; empty for a turn that is not counted."""
    limit: Limit | None = None
    retry_after_ms: int = 0
    """Of `limited`; 0: nobody knows."""
    predecessor: str | None = None
    """The session's newest turn before it, of one that is accepted now."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries of one turn on their way into the log, frozen: sent again byte for byte until a definite answer."""

    key: TurnKey
    nonce: str
    batch: str
    """Random; a batch of this name that is in answers `dup`."""
    counter: int
    """How many entries of this turn its writers have appended before."""
    entries: Sequence[Entry]
    seal: "Seal | None" = None
    park_until_ms: int | None = None
    """With turn.asked entries: how long the turn may wait for its answers; it gives up its lease."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Ends a turn: the batch's last entry is its terminal."""

    state: Literal["done", "error"]
    record: bytes
    """JSON object {"parts": [Part]}: the final record, from which snapshots and later contexts are built."""
    used: Used = NOTHING
    """By the whole turn, on all nodes that ran it."""


@dataclass(frozen=True, slots=True)
class Appended:
    """The answer to one Batch, checked in this order.

    `gone` the session was deleted · `lost` the store does not know the turn (put it back from memory) · `fenced`
    another writer has it: stop · `dup` it is in since an earlier try (`first_seq` tells where) · `sealed` it has a
    terminal, nothing follows · `regressed` the store's history ends at `counter`: send again from there · `ok` ·
    `full` the store has no room (seals get through) · `away` no definite answer: send the same batch again.
    """

    result: Literal["ok", "dup", "gone", "lost", "fenced", "sealed", "regressed", "full", "away"]
    gen: str = ""
    first_seq: int = 0
    at: int = 0
    counter: int = 0
    cancel_by: str | None = None
    """Set when a cancel of this turn is stored."""
    next: str | None = None
    """After a seal: the queued turn that is now to be run, ownerless; take it at once."""
    holder: str | None = None
    """Of `fenced`: the nonce that has the turn, if nothing came from it since the store's history changed."""


@dataclass(frozen=True, slots=True)
class Renewed:
    result: Literal["ok", "fenced", "lost", "sealed", "gone", "away"]
    cancel_by: str | None = None
    unwatched_ms: int = 0
    """How long no node has had a cursor on the session."""
    holder: str | None = None
    """As in Appended."""


Claim = Literal["ownerless", "overdue", "foreign"]
"""Which turns a node dares to take, each with those before it: turns that nobody has; turns whose lease ran out; turns
whose lease was written before the store's last restart, so that it says nothing about whether its writer lives."""


@dataclass(frozen=True, slots=True)
class Taken:
    """`taken`: the turn is this node's now. `held` its lease runs, `foreign` its claim does not reach so far, `over` it
    has ended, `missing` it is unknown."""

    result: Literal["taken", "held", "foreign", "over", "missing"]
    gen: str = ""
    state: Literal["queued", "running", "parked"] = "running"
    """Before it was taken. `queued` means its time in the queue ran out, `parked` that its asks did."""
    request: AcceptRequest | None = None
    """What it was accepted by, as far as running it or putting it back needs; its nonce is the one that it was taken
    with. Of a turn that was taken."""
    counter: int = 0
    accepted_seq: int = 0
    accepted_at: int = 0
    takes: int = 0
    """How often the turn was taken after its first run began; a promoted turn's first run counts 0."""
    cancel_by: str | None = None
    entries: Sequence[Logged] = ()
    """The turn's entries so far."""
    answers: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Of a turn whose asks were answered: request to JSON value."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    result: Literal["cancelling", "already_done", "pending", "too_many_pending"]
    gen: str = ""
    logged: Sequence[Logged] = ()
    node: str | None = None
    """Whose runner was told."""
    take: str | None = None
    """A turn that nobody runs and that the caller should take and seal."""


@dataclass(frozen=True, slots=True)
class Responded:
    result: Literal["ok", "not_found", "not_asked"]
    gen: str = ""
    logged: Sequence[Logged] = ()
    take: str | None = None
    """The turn, when this was the last answer that it waited for: take it at once."""


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A turn as the store has it; `parts` None while it is unfinished (fold its entries)."""

    turn: str
    state: Literal["queued", "running", "parked", "done", "error"]
    parent: str | None
    accepted: Logged
    """Its turn.accepted, rebuilt from the record if the log no longer holds it."""
    spec: bytes
    parts: bytes | None
    """The final record as given in Seal."""
    terminal: Logged | None
    entries: Sequence[Logged] = ()
    """All entries of an unfinished turn."""


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as of exactly `head`, read in one step. Unknown session: gen None, head 0."""

    gen: str | None
    head: int
    floor: int
    """The lowest seq that a replay may start after."""
    turn_at_head: str | None
    leaf: str | None
    turns: Sequence[StoredTurn] = ()
    """The newest `history` turns and every unfinished one, by their place in the log."""


@dataclass(frozen=True, slots=True)
class LogRange:
    """Entries after a cursor, in order, without holes, read in one step. `complete` when they reach `head`."""

    gen: str | None
    head: int
    floor: int
    turn_at: str | None
    """Turn of the entry at the cursor's own seq; None for a session frame or when `at_known` is False."""
    at_known: bool
    """Whether the log still holds the entry at the cursor's seq (always so for seq 0)."""
    entries: Sequence[Logged] = ()
    overdue: str | None = None
    """The session's active turn, when its lease ran out: somebody should take it."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as a list shows it. Times are ms since 1970 by the store's clock."""

    session: str
    title: str | None
    preview: str | None
    """How the first input that has text begins; None when there is none."""
    metadata: bytes
    """JSON object."""
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class ListPlace:
    """A place in an owner's list of sessions: when a session was written to last, and its id."""

    at: int
    session: str


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some of an owner's sessions, the one that was written to last first. `next`: where older ones go on."""

    sessions: Sequence[SessionInfo] = ()
    next: ListPlace | None = None


@dataclass(frozen=True, slots=True)
class TurnPage:
    """Some of a session's turns, the one that was accepted first first. `next`: before which turn there are more."""

    turns: Sequence[StoredTurn] = ()
    next: str | None = None


@dataclass(frozen=True, slots=True)
class SessionChange:
    """New values of a session's fields, each as JSON text; None leaves what is there."""

    title: bytes | None = None
    metadata: bytes | None = None


@dataclass(frozen=True, slots=True)
class Updated:
    """A session after a change. `logged` is empty when nothing changed."""

    info: SessionInfo
    gen: str
    logged: Sequence[Logged] = ()


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was deleted: where its `session.deleted` stands, one past the head, and the turn that was active."""

    gen: str
    seq: int
    at: int
    active: str | None = None


@dataclass(frozen=True, slots=True)
class Nudge:
    """Something was published: a session's log has grown, or ended, or a turn of this node is to stop. May be lost."""

    kind: Literal["grown", "deleted", "cancel", "reset"]
    key: SessionKey | None = None
    gen: str = ""
    head: int = 0
    """Of `deleted`: where session.deleted stands."""
    turn: str = ""
    by: str = ""
    """Of `cancel`: which turn, and who asked for it."""
    at: int = 0
    """Of `deleted`: when."""
    aside: bool = False
    """Of `grown`: by something beside the session's turns, which a node that runs one does not hear of otherwise."""
