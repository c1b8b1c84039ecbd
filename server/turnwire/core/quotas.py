"""What somebody may use: plans, what is left of them, and how a refusal is told.

A plan is of a user, an organisation or an address. Its short limits (turns a minute, turns and connections at the same
time) are refused with `rate_limited` and the time after which it would pass; its long ones (tokens and money a day and
a month, by the calendar of UTC) with `quota_exceeded` and where more can be had. The counting is the store's, in the
step that accepts a turn; tokens and money are claimed by an estimate there and settled with what was used at its end.

Money is counted in billionths of a dollar: whole numbers, which scripts can add.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final, Literal

from turnwire_protocol.codes import ErrorCode
from turnwire_protocol.values import Left

NANO: Final = 10**9
COUNT_MAX: Final = 10**6
TOKENS_MAX: Final = 10**15
USD_MAX: Final = 10**6
"""The largest limits of turns and connections, of tokens and of dollars: in microseconds and billionths still far below
what scripts can count."""
URL_CHARS_MAX: Final = 2_048

SOON_MS: Final = 1_000
"""When to ask again where nobody knows when a turn or a connection of others will end."""

SubjectKind = Literal["user", "org", "address"]
Limit = Literal[
    "turns_per_minute",
    "turns_running",
    "tokens_per_day",
    "tokens_per_month",
    "usd_per_day",
    "usd_per_month",
    "connections",
]
COUNTED: Final[tuple[Limit, ...]] = (
    *("turns_per_minute", "turns_running"),
    *("tokens_per_day", "tokens_per_month", "usd_per_day", "usd_per_month"),
)
"""The limits of turns, in the order in which scripts number them, from 1."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one subject may use; None: no limit. Money in billionths of a dollar."""

    turns_per_minute: int | None = None
    """All of them may come at once; then each minute's are spread (the generic cell rate algorithm)."""
    turns_running: int | None = None
    """Unfinished turns at the same time, without those that wait in a queue."""
    connections: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    usd_per_day: int | None = None
    usd_per_month: int | None = None
    upgrade_url: str | None = None
    """Told with `quota_exceeded`."""

    @property
    def limits(self) -> tuple[int | None, ...]:
        """Those of COUNTED."""
        return tuple(getattr(self, name) for name in COUNTED)

    @property
    def counts_turns(self) -> bool:
        return any(limit is not None for limit in self.limits)

    @property
    def counts_money(self) -> bool:
        return self.usd_per_day is not None or self.usd_per_month is not None


UNLIMITED: Final = Plan()


def plan_of_claims(claims: Mapping[str, Any]) -> Plan:
    """The plan that a token carries: the keys of a table of turnwire.toml. Raises ValueError, with what is wrong."""
    known = {one.name for one in fields(Plan)}
    values: dict[str, Any] = {}
    for name, value in claims.items():
        if name not in known:
            raise ValueError("a key that no plan has")
        if name == "upgrade_url":
            if not isinstance(value, str) or not value.startswith("https://") or len(value) > URL_CHARS_MAX:
                raise ValueError("upgrade_url is no https address")
            values[name] = value
        elif name.startswith("usd_"):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= USD_MAX:
                raise ValueError(f"{name} is no amount that a limit may be")
            values[name] = nano_of(Decimal(str(value)))
        elif isinstance(value, bool) or not isinstance(value, int) or not _least(name) <= value <= _most(name):
            raise ValueError(f"{name} is no whole number that a limit may be")
        else:
            values[name] = value
    return Plan(**values)


def _least(name: str) -> int:
    """A rate of nothing has no wait after which it would pass."""
    return 1 if name == "turns_per_minute" else 0


def _most(name: str) -> int:
    return TOKENS_MAX if name.startswith("tokens_") else COUNT_MAX


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans that there are, and which of them hold where a token names none."""

    named: Mapping[str, Plan] = field(default_factory=dict[str, Plan])
    defaults: Mapping[SubjectKind, Plan] = field(default_factory=dict[SubjectKind, Plan])

    def of(self, kind: SubjectKind, chosen: "str | Plan | None") -> Plan:
        """The plan of a subject. A name that is not known gets what one without a name gets, never more."""
        if isinstance(chosen, Plan):
            return chosen
        found = None if chosen is None else self.named.get(chosen)
        return self.defaults.get(kind, UNLIMITED) if found is None else found


@dataclass(frozen=True, slots=True)
class Used:
    """Tokens and money, of a turn: estimated before it runs, or what it has used."""

    tokens: int = 0
    nano_usd: int = 0


NOTHING: Final = Used()


def nano_of(usd: Decimal) -> int:
    """In billionths, rounded up: what costs something is not free."""
    return int((usd * NANO).to_integral_value(ROUND_CEILING))


@dataclass(frozen=True, slots=True)
class Limited:
    """A turn or a connection that goes beyond a limit. `retry_after_ms` 0: nobody knows when it would not."""

    kind: SubjectKind
    limit: Limit
    retry_after_ms: int
    upgrade_url: str | None = None

    @property
    def code(self) -> ErrorCode:
        return "quota_exceeded" if self.limit.startswith(("tokens", "usd")) else "rate_limited"

    @property
    def told_after_ms(self) -> int:
        return self.retry_after_ms or SOON_MS

    @property
    def message(self) -> str:
        return f"{_WHOSE[self.kind]} {_WHAT[self.limit]}."


_WHOSE: Final[dict[SubjectKind, str]] = {
    "user": "You have",
    "org": "Your organisation has",
    "address": "Your network has",
}
_WHAT: Final[dict[Limit, str]] = {
    "turns_per_minute": "sent too many messages in a short time; wait a moment",
    "turns_running": "too many answers running; wait for one to end",
    "connections": "too many connections open",
    "tokens_per_day": "used up the tokens of the day",
    "tokens_per_month": "used up the tokens of the month",
    "usd_per_day": "used up the budget of the day",
    "usd_per_month": "used up the budget of the month",
}


def least_left(several: Sequence[Sequence[int | None]]) -> Left | None:
    """What is left to somebody under several plans: of each limit (COUNTED) the least. None: there is no limit."""
    least: dict[str, Any] = {}
    for place, name in enumerate(COUNTED):
        known = [amount for amounts in several if (amount := amounts[place]) is not None]
        if known:
            least[name] = usd_text(min(known)) if name.startswith("usd_") else min(known)
    return Left(**least) if least else None


def usd_text(nano: int) -> str:
    """An exact decimal string."""
    whole, part = divmod(nano, NANO)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".")
