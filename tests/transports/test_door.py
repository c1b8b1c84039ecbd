"""The door: who counts for which address, on real sockets and both event loops; and how a herd is let in."""

import asyncio
import time
from collections.abc import Generator
from ipaddress import ip_network
from typing import Any

import pytest

from tests.support.serving import LOOPS, Loop, Served, handshake, read_all, read_head, serving
from tests.support.waiting import until
from turnwire.transports import door as module
from turnwire.transports.door import Door, DoorLimits, counted_address
from turnwire.transports.uvicorn_protocol import EXTENSION


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Says which address a WebSocket counts for and keeps it; answers everything else."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["extensions"][EXTENSION].address})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Loop:
    return request.param


@pytest.fixture
def served(loop: Loop) -> Generator[Served]:
    limits = DoorLimits(connections_max=5, per_address_max=3)
    with serving(application, loop, limits) as served:
        yield served


@pytest.fixture
def proxied(loop: Loop) -> Generator[Served]:
    """A server whose peers are all trusted proxies."""
    limits = DoorLimits(connections_max=5, per_address_max=2, trusted_proxies=[ip_network("127.0.0.0/8")])
    with serving(application, loop, limits) as served:
        yield served


def address_said(raw: Any) -> str:
    head = raw.recv(2)
    return raw.recv(head[1]).decode() if head[1] else ""


def test_an_address_has_so_many_connections_counted_from_the_first_byte_and_given_back(served: Served) -> None:
    silent = [served.connect() for _ in range(2)]
    served.inside_are(2)
    third = served.websocket()
    refused = served.connect()
    assert read_all(refused).startswith(b"HTTP/1.1 429 ")
    refused.close()
    silent.pop().close()
    served.inside_are(2)
    again = served.websocket()
    assert address_said(again) == "127.0.0.1"
    for raw in (*silent, third, again):
        raw.close()
    served.inside_are(0)
    assert served.door._of_address == {}


def test_what_others_write_into_forwarded_for_counts_for_nothing(served: Served) -> None:
    raws = [served.websocket(headers=f"X-Forwarded-For: 10.0.0.{number}\r\n") for number in range(3)]
    assert [address_said(raw) for raw in raws] == ["127.0.0.1"] * 3
    refused = served.connect()
    assert read_all(refused).startswith(b"HTTP/1.1 429 ")
    for raw in (*raws, refused):
        raw.close()


def test_behind_a_proxy_a_websocket_counts_for_whom_the_proxy_speaks(proxied: Served) -> None:
    header = "X-Forwarded-For: 203.0.113.9, 198.51.100.7\r\nX-Forwarded-For: 127.0.0.1\r\n"
    raws = [proxied.websocket(headers=header) for _ in range(2)]
    assert [address_said(raw) for raw in raws] == ["198.51.100.7"] * 2
    refused = proxied.connect()
    refused.sendall(handshake(headers=header))
    said = read_all(refused)
    assert said.startswith(b"HTTP/1.1 429 ") and b"Retry-After" in said
    other = proxied.websocket(headers="X-Forwarded-For: 198.51.100.8\r\n")
    assert address_said(other) == "198.51.100.8"
    raws.pop().close()
    proxied.inside_are(2)
    again = proxied.websocket(headers=header)
    for raw in (*raws, other, again, refused):
        raw.close()
    proxied.inside_are(0)
    assert proxied.door._of_address == {}


def test_a_proxy_that_says_nothing_of_its_client_has_only_the_limit_of_all(proxied: Served) -> None:
    raws = [proxied.websocket() for _ in range(5)]
    assert {address_said(raw) for raw in raws} == {""}
    refused = proxied.connect()
    assert read_all(refused).startswith(b"HTTP/1.1 503 ")
    for raw in (*raws, refused):
        raw.close()


def test_a_request_on_a_proxys_connection_is_answered_and_counts_for_nobody(proxied: Served) -> None:
    with proxied.connect() as raw:
        for number in range(5):
            head = f"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.{number}\r\n\r\n"
            raw.sendall(head.encode())
            assert read_head(raw).startswith(b"HTTP/1.1 204 ")
    proxied.inside_are(0)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", ""),
        ("", ""),
        ("999.1.1.1", ""),
    ],
)
def test_what_an_address_counts_for(peer: str, address: str) -> None:
    assert counted_address(peer) == address


TRUSTED = DoorLimits(trusted_proxies=[ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ([], ""),
        (["203.0.113.5"], "203.0.113.5"),
        (["1.1.1.1, 203.0.113.5"], "203.0.113.5"),
        (["1.1.1.1", "203.0.113.5", "10.1.1.1"], "203.0.113.5"),
        (["1.1.1.1, 203.0.113.5:4711, 10.2.2.2"], "203.0.113.5"),
        (["[2001:dead::1]:443, 2001:db8::5"], "2001:dead::/64"),
        (["2001:dead::1"], "2001:dead::/64"),
        (["10.1.1.1, 10.2.2.2"], ""),
        (["203.0.113.5, unknown"], ""),
        (["1.1.1.1," * 10_000 + "203.0.113.5"], "203.0.113.5"),
        (["203.0.113.5, ::ffff:10.1.1.1"], "203.0.113.5"),
    ],
)
def test_of_what_was_forwarded_the_newest_that_no_proxy_has_counts(forwarded: list[str], address: str) -> None:
    assert Door(TRUSTED)._forwarded_address(forwarded) == address


class Client(asyncio.Transport):
    """Somebody in front of a door."""

    gone = False

    def is_closing(self) -> bool:
        return self.gone


class Clock:
    """Time that passes while somebody waits for it, and otherwise not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self._calls: list[tuple[float, Any]] = []
        monkeypatch.setattr(time, "monotonic_ns", lambda: round(self.now_s * 1e9))
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", self._later, raising=False)

    def _later(self, delay_s: float, call: Any) -> None:
        self._calls.append((self.now_s + delay_s, call))

    async def pass_to(self, at_s: float) -> None:
        await settle()
        while self._calls and min(self._calls)[0] <= at_s:
            due = min(self._calls)
            self._calls.remove(due)
            self.now_s = due[0]
            due[1]()
            await settle()
        self.now_s = at_s


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


AT_ONCE, WAITING = 10, module.ACCEPT_WAIT_MS // 100
"""At 10 a second: the burst, and how many have a place in the line."""


def crowd(door: Door, count: int) -> tuple[list[Client], list[asyncio.Task[int]]]:
    clients = [Client() for _ in range(count)]
    for number, client in enumerate(clients):
        assert door.enter(client, f"192.0.2.{number % 200}") is None
    return clients, [asyncio.create_task(door.wait_for_turn(client)) for client in clients]


async def test_a_herd_gets_in_one_after_another_and_the_rest_is_told_when_to_come_back(clock: Clock) -> None:
    door = Door(DoorLimits(accepts_per_s=10))
    _, tasks = crowd(door, 100)
    await settle()
    sent_away = [task.result() for task in tasks[AT_ONCE + WAITING :]]
    # Each a little later than the one before.
    longest = module.ACCEPT_WAIT_MS + 100
    assert sent_away == [longest + 100 * number for number in range(100 - AT_ONCE - WAITING)]
    for number in range(WAITING):
        assert sum(task.done() for task in tasks[: AT_ONCE + WAITING]) == AT_ONCE + number
        await clock.pass_to((number + 1) / 10 + 0.01)  # sums of tenths are not exact
    assert [task.result() for task in tasks[: AT_ONCE + WAITING]] == [0] * (AT_ONCE + WAITING)


async def test_whoever_leaves_the_line_costs_those_behind_no_time(clock: Clock) -> None:
    door = Door(DoorLimits(accepts_per_s=10))
    clients, tasks = crowd(door, AT_ONCE + WAITING)
    await settle()
    for client in clients[AT_ONCE : AT_ONCE + WAITING - 1]:
        door.leave(client)
    await clock.pass_to(0.1)
    assert all(task.done() for task in tasks)
    # And there is room for others, but for one who has left before it came.
    others, more = crowd(door, WAITING + 1)
    others[0].gone = True
    await settle()
    assert more[0].done() and not any(task.done() for task in more[1:])
    await clock.pass_to(0.1 + WAITING / 10)
    assert [task.result() for task in more] == [0] * (WAITING + 1)


async def test_a_wait_that_is_given_up_leaves_no_place_taken(clock: Clock) -> None:
    door = Door(DoorLimits(accepts_per_s=10))
    _, tasks = crowd(door, AT_ONCE + 2)
    await settle()
    tasks[-2].cancel()
    await clock.pass_to(0.1)
    assert tasks[-1].result() == 0 and tasks[-2].cancelled()


async def test_whoever_is_sent_away_is_not_kept_away_for_ever(clock: Clock) -> None:
    door = Door(DoorLimits(accepts_per_s=10))
    _, tasks = crowd(door, 2_000)
    await settle()
    told = [task.result() for task in tasks[AT_ONCE + WAITING :]]
    assert told == sorted(told) and max(told) == module.ACCEPT_WAIT_MS + 100 + module.RETURN_MS_MAX
    await clock.pass_to(10)


def test_a_peer_that_reads_nothing_does_not_keep_a_closed_connection(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing in order waits for the peer to take what is left, for ever."""
    monkeypatch.setattr(module, "SWEEP_MS", 20)
    monkeypatch.setattr(module, "CLOSING_MS", 200)

    async def large(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": bytes(8_000_000)})

    with serving(large, loop) as served, served.websocket(receive_bytes=4_096):
        served.inside_are(0)


async def test_refusals_are_logged_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SWEEP_MS", 1)
    door = Door(DoorLimits(connections_max=0))
    for _ in range(1_000):
        assert door.enter(asyncio.Transport(), "192.0.2.1") == "full"
    sweeping = asyncio.create_task(door.sweep_forever())
    await until(lambda: not door._refused)
    sweeping.cancel()
    said = capsys.readouterr().out
    assert said.count("connections_refused") == 1 and "1000" in said and "192.0.2.1" not in said
