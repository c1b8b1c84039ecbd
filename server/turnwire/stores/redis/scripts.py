"""The Lua scripts: their texts, put together and named by their SHA-1, and commands that run them.

A script's file begins with its flags; what several scripts share stands in files whose names begin with an underscore
and goes in front. The store's cache of scripts is empty after every restart and failover, so a command may be answered
NOSCRIPT: then all of them are loaded again, and the command, which has done nothing, is sent again.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

from turnwire.stores.redis.wire import Argument, Command


@dataclass(frozen=True, slots=True)
class Script:
    """One script as the store knows it."""

    name: str
    text: str
    sha: str

    def command(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Command:
        return ("EVALSHA", self.sha, str(len(keys)), *keys, *arguments)


def _read(name: str) -> str:
    return resources.files("turnwire.stores.redis").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def _script(name: str, *shared: str) -> Script:
    flags, _, own = _read(name).partition("\n")
    text = "\n".join([flags, *(_read(part) for part in shared), own])
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


APPEND: Final = _script("append_frames", "_session", "_append")
SEAL: Final = _script("seal_turn", "_session", "_quota", "_turns", "_append")
PARK: Final = _script("park_turn", "_session", "_quota", "_turns", "_append")
ACCEPT: Final = _script("accept_turn", "_session", "_quota", "_turns")
RENEW: Final = _script("renew_lease", "_session", "_quota", "_turns")
TAKE: Final = _script("take_turn", "_session", "_quota", "_turns")
CANCEL: Final = _script("cancel_turn", "_session", "_quota", "_turns")
RESPOND: Final = _script("respond_turn", "_session", "_quota", "_turns")
LOOK_AT: Final = _script("look_at_session", "_session", "_quota", "_turns")
READ_VIEW: Final = _script("read_view", "_session", "_quota", "_turns", "_views")
READ_BRANCH: Final = _script("read_branch", "_session", "_quota", "_turns", "_views")
READ_TURNS: Final = _script("read_turns", "_session", "_quota", "_turns", "_views")
READ_SESSION: Final = _script("read_session", "_summary")
LIST_SESSIONS: Final = _script("list_sessions", "_summary")
UPDATE: Final = _script("update_session", "_session", "_quota", "_turns", "_summary")
DELETE: Final = _script("delete_session", "_session", "_quota", "_turns", "_forget")
EXPIRE: Final = _script("expire_session", "_session", "_quota", "_turns", "_forget")
LIST_DUE: Final = _script("list_due")
READ_CREDENTIALS: Final = _script("read_credentials")
ADD_KEY: Final = _script("add_key")
REMOVE_KEY: Final = _script("remove_key")
END_TOKENS: Final = _script("end_tokens")
CLAIM_QUOTA: Final = _script("claim_quota", "_quota")
HOLD_QUOTA: Final = _script("hold_quota", "_quota")
SETTLE_QUOTA: Final = _script("settle_quota", "_quota")
READ_QUOTA: Final = _script("read_quota", "_quota")
HOLD_CONNECTION: Final = _script("hold_connection")

ALL: Final = (
    APPEND,
    SEAL,
    PARK,
    ACCEPT,
    RENEW,
    TAKE,
    CANCEL,
    RESPOND,
    READ_VIEW,
    READ_BRANCH,
    READ_TURNS,
    READ_SESSION,
    LIST_SESSIONS,
    UPDATE,
    LOOK_AT,
    DELETE,
    EXPIRE,
    LIST_DUE,
    READ_CREDENTIALS,
    ADD_KEY,
    REMOVE_KEY,
    END_TOKENS,
    CLAIM_QUOTA,
    HOLD_QUOTA,
    SETTLE_QUOTA,
    READ_QUOTA,
    HOLD_CONNECTION,
)


def load_commands() -> list[Command]:
    """Commands that put every script into the store's cache."""
    return [("SCRIPT", "LOAD", script.text) for script in ALL]


def fresh_gen() -> str:
    """A gen for the case that the store's history may have been lost; 22 of [A-Za-z0-9_-]."""
    return secrets.token_urlsafe(16)
