"""Which web pages may connect.

A browser lets any page open a WebSocket to any address and says in `Origin` which page it was; it is the server that
has to refuse. Programs that are no browsers send no Origin, and can send any: this check protects people from pages,
it is no authentication.

The usual rule, "the page's own host is the one in `Host`", has a hole. Whoever owns evil.example may let its name point
to 127.0.0.1 once the page is loaded (DNS rebinding): then both headers say evil.example and the request arrives at a
server that was meant for this machine alone. The same works against a server on a home or company network. What cannot
be pointed elsewhere is an address written as a number, and `localhost`, which browsers do not look up. So same-origin
counts only for those two; a server that people reach by a name has to be told its name, as an allowed origin. The rule
does not depend on the address that the server listens on, because a proxy in front makes that say nothing.

Everything is compared whole: no suffixes, no patterns, no default ports put in. `null`, which sandboxed frames and
local files send, is nobody's origin.
"""

import ipaddress
import re
from typing import Final

ORIGIN_CHARS_MAX: Final = 512

_ORIGIN: Final = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([1-9][0-9]{0,4}))?", re.ASCII)
"""Scheme, host and port as a browser writes them: nothing before the host (no user), nothing after the port."""

_USUAL_PORTS: Final = {"http": "80", "https": "443"}


class OriginPolicy:
    """Decides by the two headers. `allowed` are whole origins, each valid by `fault_of_origin`."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = frozenset(origin.lower() for origin in allowed)

    def permits(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of this `Origin` may use the server that it reached as `Host`.

        None stands for a header that is not there. Without Origin it is no page.
        """
        if origin is None:
            return True
        parsed = _parse(origin)
        if parsed is None:
            return False
        scheme, authority, name = parsed
        if f"{scheme}://{authority}" in self._allowed:
            return True
        return host is not None and authority == host.lower() and _cannot_be_rebound(name)

    def permits_without_token(self, origin: str | None, host: str | None) -> bool:
        """Whether a call may be made to a server that asks nobody who they are.

        A page's own GET carries no Origin, so a rebound name would show in `Host` alone. The server has to be reached
        by what cannot be rebound, or by the name of an allowed origin. (A token makes this needless: such a page has
        none.)
        """
        if origin is not None or host is None:
            return self.permits(origin, host)
        parsed = _parse(f"http://{host}")
        if parsed is None:
            return False
        _, authority, name = parsed
        named = {allowed.partition("://")[2] for allowed in self._allowed}
        return authority in named or _cannot_be_rebound(name)


def fault_of_origin(origin: str) -> str | None:
    """What is wrong with an origin that somebody wants to allow, in words that go on after "it"; None: nothing."""
    if origin == "*":
        return "must name each origin: with any origin allowed, every page on the web could use this server"
    parsed = _parse(origin)
    if parsed is None:
        return "must be a whole origin such as https://chat.example.com, without a path"
    scheme, authority, _ = parsed
    if authority.endswith(f":{_USUAL_PORTS[scheme]}"):
        return f"must leave out the usual port, as browsers do: {scheme}://{authority.rpartition(':')[0]}"
    return None


def _parse(origin: str) -> tuple[str, str, str] | None:
    """(scheme, host[:port] in lower case, host) of an origin, or None when it is not one."""
    if len(origin) > ORIGIN_CHARS_MAX:
        return None
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return None
    host = match[2].lower()
    return match[1], host if match[3] is None else f"{host}:{match[3]}", host


def _cannot_be_rebound(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
