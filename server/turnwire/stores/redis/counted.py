"""How a turn counts against quotas, as arguments and answers of scripts.

Names of organisations and addresses are percent-encoded, because scripts put them into lists with spaces between.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

from turnwire.core.log_values import Counted
from turnwire.core.quotas import COUNTED, Limit, Plan, Used
from turnwire.stores.redis.wire import Argument


def counted_arguments(counted: Counted | None) -> Sequence[Argument]:
    """The last arguments of accept_turn."""
    if counted is None:
        return ("",) * 11
    estimate = counted.estimate
    shared = (word(counted.org), word(counted.address), counted.others)
    return (*shared, *limits_of(counted.plan), estimate.tokens, estimate.nano_usd)


def counted_of(tokens: bytes, nano: bytes, org: bytes, address: bytes) -> Counted:
    """How a turn is counted, as scripts tell it."""
    return Counted(Used(int(tokens), int(nano)), org=_unword(org), address=_unword(address))


def limits_of(plan: Plan) -> list[Argument]:
    """The six limits that scripts know, '' for none."""
    return ["" if limit is None else limit for limit in plan.limits]


def limit_of(number: int) -> Limit | None:
    """A limit as scripts number it; 0: none."""
    return COUNTED[number - 1] if number else None


def left_of(reply: Sequence[Any]) -> list[int | None]:
    """What is left of each limit: a number, or an empty string where there is no limit."""
    return [None if amount == b"" else int(amount) for amount in reply]


def word(name: str | None) -> str:
    """A name without spaces; '' for none."""
    return "" if name is None else quote(name, safe="", errors="surrogatepass")


def _unword(word: bytes) -> str | None:
    return unquote(word.decode(), errors="surrogatepass") if word else None
