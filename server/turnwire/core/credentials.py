"""What decides whether a token holds: the API keys there are, and whose tokens were ended.

A token says when it was issued. To end all tokens of a user (log out, demotion, theft) one time is stored: what was
issued up to then is over. So nothing has to be known of tokens that others issued, and nothing is kept per token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Literal, get_args

from turnwire.core.quotas import Plan

Scope = Literal["read", "write", "tokens"]
"""`read`: follow sessions and read them. `write`: create, cancel and answer turns, change and delete sessions.
`tokens`: make and end tokens of any user."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
OF_USERS: Final[frozenset[Scope]] = frozenset(["read", "write"])
"""What a person may do; `tokens` is for servers."""

API_KEYS_MAX: Final = 1_000
ENDED_USERS_MAX: Final = 100_000
TOKEN_LIFE_MAX_MS: Final = 30 * 86_400_000
"""The longest life of a token, and so the time for which the end of a user's tokens has to be remembered."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it is stored. Its secret is not: `digest` is the secret's SHA-256 as hex, which is enough for a
    secret that was drawn with 256 random bits. `signing` signs the tokens that it makes; they end with it."""

    id: str
    name: str
    digest: str
    signing: bytes
    user: str
    org: str | None
    scopes: frozenset[Scope]
    created_at: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """All that was stored at `version`; `ended` as far as it was asked for."""

    version: str
    keys: Mapping[str, ApiKey] = field(default_factory=dict[str, ApiKey])
    ended: Mapping[str, int] = field(default_factory=dict[str, int])
    """`user_hash` of a user -> when (ms) all tokens were ended that had been issued to it."""


def user_hash(user: str) -> str:
    """How a user is named where its tokens are ended: the mark outlives an erasure, and need not tell whose it is."""
    return sha256(user.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a new token is for. Plans are names; None: those that hold for everyone."""

    user: str
    org: str | None = None
    plan: str | None = None
    org_plan: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is there. `user` owns sessions; it names the store's keys, so it decides what exists for them.

    Times are ms since 1970. `expires_at`: from then on the token is none. `issued_at`: None for what was not issued at
    some time, such as an API key. `key`: the id of the API key that this is, or that made the token. `plan` and
    `org_plan` are names of plans, or plans that the token carries; None: those that hold for everyone.
    """

    user: str
    org: str | None = None
    scopes: frozenset[Scope] = OF_USERS
    expires_at: int | None = None
    issued_at: int | None = None
    key: str | None = None
    plan: str | Plan | None = None
    org_plan: str | Plan | None = None
