"""The Lua scripts: their texts, put together and named by their SHA-1, and commands that run them.

A script's file begins with its flags; what several scripts share stands in files whose names begin with an underscore
and goes in front. The store's cache of scripts is empty after every restart and failover, so a command may be answered
NOSCRIPT: then all of them are loaded again, and the command, which has done nothing, is sent again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

from turnwire.stores.redis.wire import Argument, Command

_ALLOW_OOM: Final = "#!lua flags=allow-oom"


@dataclass(frozen=True, slots=True)
class Script:
    """One script as the store knows it."""

    name: str
    text: str
    sha: str

    def command(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


def _read(name: str) -> str:
    return resources.files("turnwire.stores.redis").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def _script(name: str, *shared: str, flags: str | None = None) -> Script:
    first, _, rest = _read(name).partition("\n")
    text = "\n".join([flags or first, *(_read(part) for part in shared), rest])
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


ACCEPT: Final = _script("accept_turn", "_common")
APPEND: Final = _script("append_frames", "_common")
APPEND_SEAL: Final = _script("append_frames", "_common", flags=_ALLOW_OOM)
"""The same script, for batches that end their turn: a full store must still be able to end turns."""
RENEW: Final = _script("renew_lease", "_common")
TAKE: Final = _script("take_turn", "_common")
CANCEL: Final = _script("cancel_turn", "_common")
RESPOND: Final = _script("respond_turn", "_common")
READ_VIEW: Final = _script("read_view", "_common", "_views")
READ_BRANCH: Final = _script("read_branch", "_common", "_views")
LOOK_AT: Final = _script("look_at_session", "_common")
DELETE: Final = _script("delete_session", "_common", "_forget")
EXPIRE: Final = _script("expire_session", "_common", "_forget")
LIST_DUE: Final = _script("list_due")

ALL: Final = (
    ACCEPT,
    APPEND,
    APPEND_SEAL,
    RENEW,
    TAKE,
    CANCEL,
    RESPOND,
    READ_VIEW,
    READ_BRANCH,
    LOOK_AT,
    DELETE,
    EXPIRE,
    LIST_DUE,
)


def load_commands() -> list[Command]:
    """Commands that put every script into the store's cache."""
    return [("SCRIPT", "LOAD", script.text) for script in ALL]
