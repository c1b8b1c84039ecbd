"""The door: how many connections there are, from where, and how fast new ones get in.

One for each process. A connection that comes straight from its client counts for that address from its first byte on,
so that one that never says anything takes a place only there. Behind a trusted proxy all come from the proxy: there a
WebSocket counts for the address that the proxy wrote into X-Forwarded-For, and nothing that others wrote there counts.
Addresses of IPv6 count by their /64, which is what one customer gets.

After a network or a node has failed, all of its clients come back at once. Their handshakes stand in a line and get in
at a rate that the node can do with turns running beside; who gives up leaves the line, and costs nobody else time. Who
would have to wait too long is told when to come back, each a little later than the one before, so that they do not meet
here again.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, Literal

import structlog

from turnwire.core.admission import Bucket, Pace

ACCEPT_WAIT_MS: Final = 5_000
"""How long a handshake may wait for its turn."""

CLOSING_MS: Final = 10_000
"""How long a connection that is being closed may take to hand over what is left, before it is dropped."""

RETURN_MS_MAX: Final = 60_000
"""How long others may be told to stay away before one that comes back."""

SWEEP_MS: Final = 2_000
FORWARDED_CHARS_MAX: Final = 2_048

Network = IPv4Network | IPv6Network
Refusal = Literal["full", "address"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """`accepts_per_s` is of WebSockets; the first second's worth of them get in at once."""

    connections_max: int = 10_000
    per_address_max: int = 256
    accepts_per_s: int = 200
    trusted_proxies: Sequence[Network] = ()


@dataclass(slots=True)
class _Visit:
    """A connection. `address` is what it counts for, "" for none."""

    address: str
    closing_since_s: float | None = None


class Door:
    """Who is inside. Connections are told apart by their transports."""

    def __init__(self, limits: DoorLimits) -> None:
        self._limits = limits
        self._visits: dict[asyncio.Transport, _Visit] = {}
        self._of_address: dict[str, int] = {}
        self._refused: Counter[Refusal] = Counter()
        """Since it was logged last. A line for each would be a way to fill a disk."""
        self._places = Bucket.full(limits.accepts_per_s, limits.accepts_per_s, _now_ms())
        self._line: OrderedDict[asyncio.Transport, asyncio.Future[None]] = OrderedDict()
        """Handshakes that wait for their turn, in the order of their coming."""
        self._admitting: asyncio.TimerHandle | None = None
        self._returns = Pace(limits.accepts_per_s)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._visits)

    def enter(self, transport: asyncio.Transport, peer: str | None) -> Refusal | None:
        """A connection was made by `peer` (None on a Unix socket). Unless refused it counts until `leave`."""
        address = "" if peer is None or self._is_trusted(peer) else counted_address(peer)
        refusal = self._refusal(address)
        if len(self._visits) >= self._limits.connections_max:
            refusal = "full"
        if refusal is not None:
            self._refused[refusal] += 1
            return refusal
        self._visits[transport] = _Visit("")
        self._count_for(transport, address)
        return None

    def leave(self, transport: asyncio.Transport) -> None:
        visit = self._visits.pop(transport, None)
        if visit is not None:
            self._uncount(visit.address)
        turn = self._line.pop(transport, None)
        if turn is not None and not turn.done():
            turn.set_result(None)

    def come_through_proxy(
        self, transport: asyncio.Transport, peer: str | None, forwarded: Sequence[str]
    ) -> Refusal | None:
        """A WebSocket begins on a connection. If a trusted proxy has it, count it for whom the proxy speaks."""
        if peer is None or not self._is_trusted(peer):
            return None
        address = self._forwarded_address(forwarded)
        refusal = self._refusal(address)
        if refusal is not None:
            self._refused[refusal] += 1
            return refusal
        self._count_for(transport, address)
        return None

    def address_of(self, transport: asyncio.Transport) -> str:
        """What the connection counts for; "" where no address is known."""
        visit = self._visits.get(transport)
        return "" if visit is None else visit.address

    async def wait_for_turn(self, transport: asyncio.Transport) -> int:
        """0 when it is a new WebSocket's turn, or it is gone; else in how many ms it could come back."""
        now_ms = _now_ms()
        if transport.is_closing():
            # Lost already, as its protocol is told next, and then nothing more is done for it: of a herd, many give up
            # before they are even seen.
            await asyncio.sleep(0)
            return 0
        if not self._line and not self._places.take(1, now_ms):
            return 0
        wait_ms = (len(self._line) + 1) * 1_000 // self._limits.accepts_per_s
        if wait_ms > ACCEPT_WAIT_MS:
            return wait_ms + min(self._returns.wait_ms(now_ms, RETURN_MS_MAX), RETURN_MS_MAX)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line[transport] = turn
        if self._admitting is None:
            self._admit()
        try:
            await turn
        finally:
            self._line.pop(transport, None)
        return 0

    async def sweep_forever(self) -> None:
        """Drop connections that do not get closed: a peer that reads nothing would keep what it was sent for ever."""
        while True:
            await asyncio.sleep(SWEEP_MS / 1000)
            for why, count in self._refused.items():
                _log.warning("connections_refused", why=why, failures=count, connections=len(self._visits))
            self._refused.clear()
            now_s = time.monotonic()
            for transport, visit in list(self._visits.items()):
                if not transport.is_closing():
                    continue
                if visit.closing_since_s is None:
                    visit.closing_since_s = now_s
                elif now_s - visit.closing_since_s >= CLOSING_MS / 1000:
                    transport.abort()

    # --- within ---------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Let those of the line in for whom there is a place by now, and look again when there is one for the next."""
        self._admitting = None
        while self._line:
            wait_ms = self._places.take(1, _now_ms())
            if wait_ms:
                self._admitting = asyncio.get_running_loop().call_later(wait_ms / 1000, self._admit)
                return
            _, turn = self._line.popitem(last=False)
            if not turn.done():
                turn.set_result(None)

    def _refusal(self, address: str) -> Refusal | None:
        crowded = address != "" and self._of_address.get(address, 0) >= self._limits.per_address_max
        return "address" if crowded else None

    def _count_for(self, transport: asyncio.Transport, address: str) -> None:
        visit = self._visits.get(transport)
        if visit is None or address == "":
            return
        self._uncount(visit.address)
        visit.address = address
        self._of_address[address] = self._of_address.get(address, 0) + 1

    def _uncount(self, address: str) -> None:
        if address == "":
            return
        self._of_address[address] -= 1
        if self._of_address[address] == 0:
            del self._of_address[address]

    def _is_trusted(self, peer: str) -> bool:
        try:
            found = ip_address(peer)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._limits.trusted_proxies)

    def _forwarded_address(self, forwarded: Sequence[str]) -> str:
        """Of the addresses that were appended on the way, the newest that no trusted proxy has: all before it may be
        invented. "" where there is none that can be read."""
        listed = ",".join(forwarded)[-FORWARDED_CHARS_MAX:].split(",")
        for item in reversed(listed):
            peer = _bare(item.strip())
            if not self._is_trusted(peer):
                return counted_address(peer)
        return ""


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def counted_address(peer: str) -> str:
    """What an address counts for: itself, or its network in IPv6. "" for what is no address."""
    try:
        found = ip_address(peer.partition("%")[0])
    except ValueError:
        return ""
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ip_network((found, 64), strict=False))


def _bare(item: str) -> str:
    """An item of X-Forwarded-For without a port: some proxies write one."""
    if item.startswith("["):
        return item[1:].partition("]")[0]
    return item.partition(":")[0] if item.count(":") == 1 else item
