"""A turn that is proposed, as a guard of the operator's own sees it, and what such a guard may say against it.

Neither is ever logged: the one holds what a person wrote, the other may quote it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

RefusalCode = Literal["forbidden", "overloaded", "rate_limited", "too_large", "unsupported"]

CODES: Final[tuple[RefusalCode, ...]] = get_args(RefusalCode)
MESSAGE_CHARS_MAX: Final = 500
"""What the message of an error holds on the wire."""
RETRY_AFTER_MS_MAX: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class ProposedTurn:
    """A turn that is valid and not stored yet. `org` is the user's organisation where its token names one. `input` are
    the parts that would be used: of a turn that is to be answered again, those of that turn. `model` is the name that
    clients know it by. All of it is a copy: to change it changes nothing."""

    user: str
    org: str | None
    session: str
    turn: str
    input: Sequence[Mapping[str, Any]]
    model: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tools: Sequence[Mapping[str, Any]] = ()
    response_format: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a turn is not accepted. The user sees `message`: one line, safe to show. `retry_after_ms`: from when the same
    turn may be sent again, which helps with `overloaded` and `rate_limited`. Raises ValueError for what the wire does
    not take."""

    message: str
    code: RefusalCode = "forbidden"
    retry_after_ms: int | None = None

    def __post_init__(self) -> None:
        if not (0 < len(self.message) <= MESSAGE_CHARS_MAX and self.message.isprintable()):
            raise ValueError(f"a refusal's message is one line of 1 to {MESSAGE_CHARS_MAX} characters")
        if self.code not in CODES:
            raise ValueError(f"a refusal's code is one of {', '.join(CODES)}")
        if self.retry_after_ms is not None and not 0 <= self.retry_after_ms <= RETRY_AFTER_MS_MAX:
            raise ValueError(f"a refusal's retry_after_ms is from 0 to {RETRY_AFTER_MS_MAX}")
