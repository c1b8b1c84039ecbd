"""Recorded exchanges as files: what a request is known by, and what stands in a recording of it.

A folder has one file for each recording, `<key>-<number>.jsonl`. The key is a hash of the request's body, so a replay
finds its answer by asking the same; ids of tool calls do not count, because some services leave them to us, who draw
them by chance. The number tells recordings of the same request apart, in the order in which they ended: a 429 and the
answer that came after it are two.

Inside, line by line in JSON: the head, the pieces of the body with the time at which each came, and how it ended.
docs/recorded-exchanges.md says it for people. No header of the request gets in, of the answer's only a few that matter,
of the address no query; and wherever a credential was repeated to us, stars take its place.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit, urlunsplit

import orjson

FORMAT: Final = 1
KEY_CHARS: Final = 32
KEPT_HEADERS: Final = frozenset(["content-encoding", "content-type", "retry-after", "retry-after-ms", "x-should-retry"])
_SECRET_CHARS_MIN: Final = 8
_CALL_IDS: Final = frozenset(["id", "call_id", "tool_call_id", "tool_use_id"])

Ending = Literal["end", "cut"]
"""The answer was complete, or its connection broke."""


class BadExchange(Exception):
    """A file that is no recording which this version can read."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One answer as it came. Times are ms since the request was sent."""

    url: str
    request: Any
    status: int
    headers: Mapping[str, str]
    headers_ms: float
    pieces: Sequence[tuple[float, bytes]]
    ending: Ending


def key_of(content: bytes) -> str:
    """What a request of this body is known by."""
    numbers: dict[str, str] = {}
    value = _without_call_ids(orjson.loads(content), numbers)
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:KEY_CHARS]


def redacted(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request without anything that a person wrote: model, numbers and switches stay, of all else its size."""
    return {
        name: value
        if name == "model" or isinstance(value, bool | int | float | None)
        else {"redacted_bytes": len(orjson.dumps(value))}
        for name, value in request.items()
    }


def without_query(url: str) -> str:
    return urlunsplit(urlsplit(url)._replace(query="", fragment=""))


def secrets_in(headers: Mapping[str, str]) -> list[bytes]:
    """All that a request's headers hold which may be a credential: each value, and what stands behind its scheme."""
    values = {part for value in headers.values() for part in (value, value.rpartition(" ")[2])}
    return [value.encode() for value in sorted(values, key=len, reverse=True) if len(value) >= _SECRET_CHARS_MIN]


def masked(pieces: Sequence[bytes], secrets: Sequence[bytes]) -> list[bytes]:
    """The pieces with stars for every secret, also one that is cut between two of them."""
    whole = b"".join(pieces)
    for secret in secrets:
        whole = whole.replace(secret, b"*" * len(secret))
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    return [whole[start:end] for start, end in pairwise(ends)]


# --- files ------------------------------------------------------------------------------------------------------------


def path_of(folder: Path, key: str, number: int) -> Path:
    return folder / f"{key}-{number}.jsonl"


def found_in(folder: Path, key: str) -> list[Path]:
    """The recordings of a request, in order."""
    return sorted(folder.glob(f"{key}-*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2]))


def write(path: Path, exchange: Exchange) -> None:
    """Whole or not at all; for its owner's eyes only, because answers are private too."""
    lines: list[Any] = [
        {
            "turnwire_exchange": FORMAT,
            "url": exchange.url,
            "request": exchange.request,
            "status": exchange.status,
            "headers": exchange.headers,
            "headers_ms": exchange.headers_ms,
        },
        *({"ms": ms, **_as_json(piece)} for ms, piece in exchange.pieces),
        {"ending": exchange.ending},
    ]
    unfinished = path.with_suffix(".part")
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    unfinished.replace(path)


def read(path: Path) -> Exchange:
    """Raises BadExchange."""
    try:
        head, *pieces, end = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        if head["turnwire_exchange"] != FORMAT or end["ending"] not in ("end", "cut"):
            raise BadExchange(f"{path} is of another version")
        return Exchange(
            str(head["url"]),
            head["request"],
            int(head["status"]),
            {str(name): str(value) for name, value in head["headers"].items()},
            float(head["headers_ms"]),
            [(float(piece["ms"]), _from_json(piece)) for piece in pieces],
            end["ending"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadExchange(f"{path} cannot be read: {type(error).__name__}") from error


def _as_json(piece: bytes) -> dict[str, str]:
    """As text where it is any, so that people can read and compare recordings."""
    try:
        return {"text": piece.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(piece).decode()}


def _from_json(piece: Mapping[str, Any]) -> bytes:
    return piece["text"].encode() if "text" in piece else base64.b64decode(piece["base64"], validate=True)


def _without_call_ids(value: Any, numbers: dict[str, str]) -> Any:
    """The same with every id of a tool call replaced by its place among them."""
    if isinstance(value, list):
        return [_without_call_ids(item, numbers) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    return {
        name: numbers.setdefault(item, f"call {len(numbers)}")
        if name in _CALL_IDS and isinstance(item, str)
        else _without_call_ids(item, numbers)
        for name, item in fields.items()
    }
