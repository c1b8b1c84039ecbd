"""ports.CredentialStore on Redis 7 or Valkey.

Three keys in a slot of their own: the API keys, the ends of users' tokens by time, and a version that is drawn anew by
every change, so that nodes learn in one small call that nothing did. A version that was counted would come back after
a lost write; one that is lost means that all keys are gone, and no token holds that they made.
"""

import secrets
from base64 import b64decode, b64encode
from types import TracebackType
from typing import Any, Final, Self, cast

import orjson

from turnwire.core.credentials import API_KEYS_MAX, ENDED_USERS_MAX, TOKEN_LIFE_MAX_MS, ApiKey, Credentials, user_hash
from turnwire.stores.redis import scripts
from turnwire.stores.redis.link import Lane, Link

KEYS: Final = "tw:{credentials}:keys"
ENDS: Final = "tw:{credentials}:ends"
VERSION: Final = "tw:{credentials}:version"


class RedisCredentials:
    """Use as an async context manager. Connects when it is first asked."""

    def __init__(self, link: Link) -> None:
        self._lane = Lane(link, "credentials")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lane.aclose()

    async def read(self, version: str, since_ms: int) -> Credentials | None:
        reply = await self._lane.one(scripts.READ_CREDENTIALS.command((KEYS, ENDS, VERSION), (version, since_ms)))
        if len(reply) == 1:
            return None
        new_version, keys, ends = reply
        read = [_key_of(key_id.decode(), record) for key_id, record in zip(keys[::2], keys[1::2], strict=True)]
        ended = {user.decode(): int(at) for user, at in zip(ends[::2], ends[1::2], strict=True)}
        return Credentials(new_version.decode(), {key.id: key for key in read}, ended)

    async def add_key(self, key: ApiKey) -> bool:
        arguments = (key.id, _record_of(key), _fresh_version(), API_KEYS_MAX)
        return await self._lane.one(scripts.ADD_KEY.command((KEYS, VERSION), arguments)) == 1

    async def remove_key(self, key_id: str) -> bool:
        return await self._lane.one(scripts.REMOVE_KEY.command((KEYS, VERSION), (key_id, _fresh_version()))) == 1

    async def end_tokens(self, user: str) -> int:
        # Longer than any token lives, because the clocks of those who issue them are not the store's.
        arguments = (user_hash(user), _fresh_version(), TOKEN_LIFE_MAX_MS + 86_400_000, ENDED_USERS_MAX)
        return await self._lane.one(scripts.END_TOKENS.command((ENDS, VERSION), arguments))

    async def now_ms(self) -> int:
        seconds, micros = await self._lane.one(("TIME",))
        return int(seconds) * 1000 + int(micros) // 1000


def _fresh_version() -> str:
    return secrets.token_urlsafe(9)


def _record_of(key: ApiKey) -> bytes:
    return orjson.dumps(
        {
            "name": key.name,
            "digest": key.digest,
            "signing": b64encode(key.signing).decode(),
            "user": key.user,
            "org": key.org,
            "scopes": sorted(key.scopes),
            "created_at": key.created_at,
        }
    )


def _key_of(key_id: str, record: bytes) -> ApiKey:
    value = cast("dict[str, Any]", orjson.loads(record))
    return ApiKey(
        id=key_id,
        name=value["name"],
        digest=value["digest"],
        signing=b64decode(value["signing"]),
        user=value["user"],
        org=value["org"],
        scopes=frozenset(value["scopes"]),
        created_at=value["created_at"],
    )
