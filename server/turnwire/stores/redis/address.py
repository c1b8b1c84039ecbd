"""The store's address, as its URL says it: one server, or Sentinels that know which server is the primary."""

import re
import ssl
from dataclasses import dataclass, replace
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio.connection import parse_url

SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
SENTINEL_PORT: Final = 26_379

_TLS_OPTIONS: Final = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}


class StartError(Exception):
    """The store cannot be used; the text says why and what to do, in a sentence."""


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Who tells where the primary called `master` is; any of `places` (host, port) may."""

    places: tuple[tuple[str, int], ...]
    master: str
    username: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """Where the store is. `path` is a Unix socket's, and then host and port mean nothing; where there are `sentinels`,
    these tell host and port."""

    path: str | None
    host: str
    port: int
    db: int
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None
    sentinels: Sentinels | None = None

    @property
    def described(self) -> str:
        """For people; never the password."""
        if self.sentinels is not None and not self.host:
            return f"{self.sentinels.master} of the Sentinels {', '.join(f'{h}:{p}' for h, p in self.sentinels.places)}"
        return self.path or f"{self.host}:{self.port}"


def address_of(url: str) -> Address:
    """redis://, rediss:// (with ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs=none|required), unix://, or
    redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/master[/db] (with sentinel_username,
    sentinel_password; rediss+sentinel:// for TLS to both).

    Raises StartError.
    """
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise StartError(
            "The store's URL must begin with redis://, rediss://, unix:// or redis+sentinel://; see TURNWIRE_REDIS_URL."
        )
    if scheme.endswith("+sentinel"):
        return _of_sentinels(url, scheme.removesuffix("+sentinel"))
    try:
        parts = cast("dict[str, Any]", dict(parse_url(url)))
    except ValueError as error:
        raise _unreadable(str(error)) from error
    parts.pop("connection_class", None)
    options = {name: str(parts.pop(name)) for name in list(parts) if name in _TLS_OPTIONS}
    address = Address(
        path=parts.pop("path", None),
        host=parts.pop("host", "localhost"),
        port=parts.pop("port", 6379),
        db=parts.pop("db", 0),
        username=parts.pop("username", None),
        password=parts.pop("password", None),
        tls=_tls(options) if scheme == "rediss" else None,
    )
    if parts:
        raise StartError(f"The store's URL has an option that is not known: {', '.join(sorted(parts))}.")
    return address


def _of_sentinels(url: str, scheme: str) -> Address:
    """The same as for one server, whose place the Sentinels tell."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    master, _, db = parts.path.removeprefix("/").partition("/")
    if not hosts or not master:
        raise _unreadable("it must look like redis+sentinel://host:port,host:port/NAME_OF_THE_MASTER")
    if not re.fullmatch(r"\d*", db):
        raise _unreadable(f"{db!r} is no number of a database")
    query = dict(parse_qsl(parts.query))
    sentinels = Sentinels(
        tuple(_place(place) for place in hosts.split(",")),
        unquote(master),
        query.pop("sentinel_username", None),
        query.pop("sentinel_password", None),
    )
    plain = address_of(f"{scheme}://{user}{at}sentinels/{db}" + (f"?{urlencode(query)}" if query else ""))
    return replace(plain, host="", port=0, sentinels=sentinels)


def _place(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::(\d{1,5}))?", text)
    if found is None or int(found[2] or SENTINEL_PORT) > 65_535:
        raise _unreadable(f"{text!r} is no host:port")
    return found[1].strip("[]"), int(found[2] or SENTINEL_PORT)


def _unreadable(why: str) -> StartError:
    return StartError(f"The store's URL cannot be read: {why}; see TURNWIRE_REDIS_URL.")


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if options.get("ssl_cert_reqs") == "none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        raise StartError(f"The TLS files of the store's URL cannot be used: {error}.") from error
    return context
