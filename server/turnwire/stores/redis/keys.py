"""Names of keys.

Every key of a user carries the hash tag {p}, p = hash(owner) mod 256 as two hex digits, and the owner's name. So one
script may touch all that belongs to a user and the partition's indexes, also in a Cluster, and no request can name
another user's key. An owner is percent-encoded: no `:` and no brace is left in it, and no two owners share a name.
Session and turn ids are [A-Za-z0-9_-] and stand as they are; a session's id is never empty, so `owner::sessions` is
nobody's session.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from turnwire.core.quotas import SubjectKind
from turnwire.ports import SessionKey, TurnKey

PARTITIONS: Final = 256

_LEASES: Final = tuple(f"tw:{{{number:02x}}}.leases" for number in range(PARTITIONS))
_IDLE: Final = tuple(f"tw:{{{number:02x}}}.idle" for number in range(PARTITIONS))
_UNSETTLED: Final = tuple(f"tw:{{{number:02x}}}.unsettled" for number in range(PARTITIONS))


@lru_cache(maxsize=16_384)
def _owner(owner: str) -> tuple[str, str, str]:
    """Prefix of the owner's keys, and the lease and idle index of its partition."""
    name = quote(owner, safe="", errors="surrogatepass")
    partition = _partition(name)
    return f"tw:{{{partition:02x}}}:{name}:", _LEASES[partition], _IDLE[partition]


def _partition(name: str) -> int:
    return zlib.crc32(name.encode()) % PARTITIONS


@lru_cache(maxsize=16_384)
def _subject(kind: SubjectKind, name: str) -> str:
    """Prefix of the keys that count what somebody uses. A user's stand among the user's own."""
    if kind == "user":
        return _owner(name)[0] + ":"
    quoted = quote(name, safe="", errors="surrogatepass")
    return f"tw:{{{_partition(quoted):02x}}}.{kind}:{quoted}:"


def quota_keys(kind: SubjectKind, name: str) -> tuple[str, str, str]:
    """What is used, the turns that run, and the open claims."""
    prefix = _subject(kind, name)
    return prefix + "quota", prefix + "running", prefix + "claims"


def connections_name(kind: SubjectKind, name: str) -> str:
    """The connections of a user, an organisation or an address."""
    return _subject(kind, name) + "connections"


def unsettled_name(owner: str) -> str:
    """The partition's turns that are over and whose claims on others' quotas may still be open."""
    return _UNSETTLED[_partition(quote(owner, safe="", errors="surrogatepass"))]


def unsettled_indexes() -> Sequence[str]:
    return _UNSETTLED


def session_name(key: SessionKey) -> str:
    """The session's hash, from which the scripts make its other keys, and the channel that its nudges come by."""
    return _owner(key.owner)[0] + key.session


def answers_name(key: TurnKey) -> str:
    """What a turn asked, and what was answered."""
    return f"{session_name(key.session_key)}:a:{key.turn}"


def session_keys(key: SessionKey) -> tuple[str, str]:
    """KEYS of a script on a session: its hash and its partition's lease index."""
    prefix, leases, _ = _owner(key.owner)
    return prefix + key.session, leases


def turn_keys(key: TurnKey) -> tuple[str, str, str]:
    """KEYS of a script on a turn: the session's hash, the lease index, the turn's hash."""
    prefix, leases, _ = _owner(key.owner)
    session = prefix + key.session
    return session, leases, f"{session}:t:{key.turn}"


def sessions_name(owner: str) -> str:
    """The owner's sessions by the time of their last write."""
    return _owner(owner)[0] + ":sessions"


def cancels_name(owner: str) -> str:
    """The owner's cancels of turns that have not come yet."""
    return _owner(owner)[0] + ":cancels"


def beside_sessions(owner: str) -> Sequence[str]:
    """All keys of an owner but those of sessions and the list of these, which is gone when they are. Erasing the owner
    removes them: who adds a key of owners adds it here."""
    quota, running, _ = quota_keys("user", owner)
    return cancels_name(owner), quota, running, connections_name("user", owner)


def idle_name(owner: str) -> str:
    """The partition's sessions by the time at which they expire."""
    return _owner(owner)[2]


def lease_indexes() -> Sequence[str]:
    return _LEASES


def idle_indexes() -> Sequence[str]:
    return _IDLE


def node_channel(node: str) -> str:
    """Where a node hears that a turn of its own is to stop."""
    return f"tw:node:{node}"


def turn_member(key: TurnKey) -> str:
    """A turn as the indexes name it."""
    return f"{quote(key.owner, safe='', errors='surrogatepass')}:{key.session}:{key.turn}"


def turn_of_member(member: bytes) -> TurnKey:
    """A turn from its place in a lease index, or from a node's channel."""
    owner, session, turn = member.decode().split(":")
    return TurnKey(unquote(owner, errors="surrogatepass"), session, turn)


def session_of_member(member: bytes) -> SessionKey:
    """A session from its place in an idle index."""
    owner, session = member.decode().split(":")
    return SessionKey(unquote(owner, errors="surrogatepass"), session)
