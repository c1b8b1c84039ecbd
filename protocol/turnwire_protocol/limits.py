"""Maxima of the wire, in one place, so that both ends and the schema agree on them.

Sizes are bytes of the encoded frame or of UTF-8 text; counts are items. A server may announce tighter limits in
`welcome.limits`, never looser ones.
"""

from typing import Final

SUBPROTOCOL_JSON: Final = "turnwire.v1.json"
SUBPROTOCOL_MSGPACK: Final = "turnwire.v1.msgpack"

ID_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"
"""Every id that a client chooses. ASCII only, so it is equal in every language and safe in a store's key."""

INTEGER_MAX: Final = 2**53 - 1
"""The largest integer that JavaScript holds exactly."""

COMMAND_BYTES_MAX: Final = 1_048_576
"""One command. A larger one closes the connection with 4413; some mobile stacks stop at 1 MiB themselves."""

SNAPSHOT_BYTES_MAX: Final = 512_000
"""One turn.snapshot frame. A longer turn goes on in further frames marked `continued`."""

INPUT_PART_BYTES_MAX: Final = 480_000
"""The text or data of one input part as it stands in JSON, so that any part fits into one turn.snapshot."""

INPUT_PARTS_MAX: Final = 32
TOKEN_PATTERN: Final = r"^[!-~]+$"  # noqa: S105 - how tokens look, and none of them
"""Visible ASCII, as in an HTTP header: characters are bytes."""

TOKEN_BYTES_MAX: Final = 16_384
TOKEN_TTL_MS_MIN: Final = 10_000
TOKEN_TTL_MS_MAX: Final = 86_400_000
"""How long a token may live that `POST /v1/tokens` makes."""

FEATURES_MAX: Final = 32
TOOLS_MAX: Final = 64
HISTORY_TURNS_MAX: Final = 200
"""The most turns that one `session.open` may ask for; earlier ones are read page by page over HTTP."""

VALUE_KEYS_MAX: Final = 64
"""Keys of one object on the wire."""

VALUE_DEPTH_MAX: Final = 32
"""Nesting of objects and arrays, the frame itself counted."""

VALUE_ITEMS_MAX: Final = 10_000
"""All values in one frame, so that a small frame cannot make much work."""

NAME_CHARS_MAX: Final = 128
REASON_CHARS_MAX: Final = 256
CANCEL_AFTER_MS_MAX: Final = 86_400_000

TITLE_CHARS_MAX: Final = 256
METADATA_BYTES_MAX: Final = 16_384
"""A session's metadata as UTF-8 JSON without spaces."""

LISTED_SESSIONS_MAX: Final = 100
LISTED_TURNS_MAX: Final = 200
"""The most that one page over HTTP may hold."""
