"""The bounds of a frame's way in, on real sockets and both event loops."""

import asyncio
import queue
import threading
import time
from collections.abc import Generator
from typing import Any, cast

import pytest

from tests.support.serving import LOOPS, Loop, Served, client_frame, close_code, read_all, serving
from turnwire.transports import uvicorn_protocol as module
from turnwire.transports.uvicorn_protocol import CONTROLS_BURST, EXTENSION, FRAGMENTS_MAX, TurnwireProtocol

TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


class App:
    """Keeps what comes. It begins to take messages when it may, and closes after the one that says so."""

    def __init__(self) -> None:
        self.got: queue.Queue[str | bytes | None] = queue.Queue()
        self.protocol: TurnwireProtocol | None = None
        self.may_take = threading.Event()
        self.may_take.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self.protocol = cast("TurnwireProtocol", scope["extensions"][EXTENSION])
        await send({"type": "websocket.accept"})
        await asyncio.to_thread(self.may_take.wait)
        while (message := await receive())["type"] != "websocket.disconnect":
            said: str | bytes = message.get("text") or message.get("bytes") or ""
            self.got.put(said)
            if said == "close":
                await send({"type": "websocket.close", "code": 4400})
                return
        self.got.put(None)

    def take(self) -> str | bytes | None:
        return self.got.get(timeout=20)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture(params=LOOPS)
def served(request: pytest.FixtureRequest, app: App) -> Generator[Served]:
    loop: Loop = request.param
    with serving(app, loop, ws_max_size=2_000_000, ws_per_message_deflate=False) as served:
        yield served


def text(said: str) -> bytes:
    return client_frame(TEXT, said.encode())


# --- what honest clients send ---------------------------------------------------------------------------------------


def test_thousands_of_tiny_messages_in_one_write_arrive_in_order(served: Served, app: App) -> None:
    with served.websocket() as raw:
        raw.sendall(b"".join(text(str(number)) for number in range(30_000)))
        assert [app.take() for _ in range(30_000)] == [str(number) for number in range(30_000)]


def test_large_and_tiny_messages_in_any_cuts_arrive_in_order(served: Served, app: App) -> None:
    sent = ["a" * 1_500_000, "b", "", "c" * 5_000, "d" * 4_096, *map(str, range(500)), "e" * 100_000]
    stream = b"".join(text(said) for said in sent)
    with served.websocket() as raw:
        for size in (1, 13, 4_095, 4_096, 4_097, 65_536, len(stream)):
            pieces = stream[: 8_000 * size] if size < 100 else stream
            whole = sent if pieces == stream else []
            for start in range(0, len(pieces) if whole else 0, size):
                raw.sendall(stream[start : start + size])
            assert [app.take() for _ in whole] == whole


def test_a_message_in_fragments_with_pings_between_arrives_whole(served: Served, app: App) -> None:
    with served.websocket() as raw:
        frames = [client_frame(TEXT, b"x", fin=False)]
        frames += [client_frame(CONT, b"y", fin=False) for _ in range(FRAGMENTS_MAX - 2)]
        frames.insert(500, client_frame(PING, b"hello"))
        raw.sendall(b"".join(frames) + client_frame(CONT, b"z"))
        assert app.take() == "x" + "y" * (FRAGMENTS_MAX - 2) + "z"
        assert raw.recv(100) == b"\x8a\x05hello"
        raw.sendall(text("and"))
        assert app.take() == "and"


def test_a_reader_that_lags_holds_up_its_writer_and_nothing_is_lost(served: Served, app: App) -> None:
    app.may_take.clear()
    with served.websocket() as raw:
        stream = b"".join(text(str(number)) for number in range(40_000)) + text("x" * 1_000_000) * 20
        raw.setblocking(False)
        sent = 0
        until_s = time.monotonic() + 2
        while time.monotonic() < until_s and sent < len(stream):
            try:
                sent += raw.send(stream[sent : sent + 65_536])
            except BlockingIOError:
                time.sleep(0.01)
        # What the systems' buffers of both ends take, and what one slice holds; the rest waits with its sender.
        assert sent < len(stream)
        assert app.protocol is not None
        assert served.inside(app.protocol.queue.qsize) < 1_000
        app.may_take.set()
        raw.setblocking(True)
        raw.sendall(stream[sent:])
        assert [app.take() for _ in range(40_000)] == [str(number) for number in range(40_000)]
        assert [len(app.take() or "") for _ in range(20)] == [1_000_000] * 20


def test_a_close_amid_a_flood_is_orderly(served: Served, app: App) -> None:
    with served.websocket() as raw:
        raw.sendall(text("close") + text("more") * 20_000 + client_frame(CLOSE, (4400).to_bytes(2, "big")))
        began_s = time.monotonic()
        assert close_code(read_all(raw)) == 4400
        # uvicorn waits 10 s for a peer's own close; it has come, behind what nobody takes any more.
        assert time.monotonic() - began_s < 8
    assert app.take() == "close"


# --- what nobody may send --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [b"", b"x"], ids=["empty", "of a byte"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_in_too_many_fragments_closes_with_1009(served: Served, app: App, piece: bytes, opcode: int) -> None:
    with served.websocket() as raw:
        raw.sendall(client_frame(opcode, piece, fin=False))
        try:
            raw.sendall(client_frame(CONT, piece, fin=False) * 200_000)
        except ConnectionError:
            pass
        assert close_code(read_all(raw)) in (1009, None)  # None: reset, because more was on its way
    assert app.take() is None
    assert app.protocol is not None and len(app.protocol.frames) <= FRAGMENTS_MAX
    served.inside_are(0)


def test_the_close_after_too_many_fragments_is_told(served: Served) -> None:
    with served.websocket() as raw:
        raw.sendall(client_frame(TEXT, fin=False) + client_frame(CONT, fin=False) * FRAGMENTS_MAX)
        assert close_code(read_all(raw)) == 1009


@pytest.mark.parametrize(
    "begun",
    [b"\x81", b"\x81\xfe\x00", client_frame(TEXT, b"hello")[:-1], client_frame(TEXT, b"x", fin=False)],
    ids=["a byte", "half a header", "all but a byte", "a fragment"],
)
def test_a_message_that_takes_too_long_closes_with_4513(
    served: Served, app: App, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MESSAGE_MS", 300)
    with served.websocket() as raw:
        raw.sendall(begun)
        if len(begun) > 5 and begun[0] & 0x80 == 0:
            raw.sendall(client_frame(PING))  # no message, and no end of one
        said = read_all(raw)
        assert close_code(said) == 4513
    assert app.take() is None


def test_messages_that_follow_each_other_without_a_pause_have_a_time_each(
    served: Served, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two reads there is always one that has begun."""
    monkeypatch.setattr(module, "MESSAGE_MS", 300)
    stream = text("0123456789") * 3
    with served.websocket() as raw:
        until_s = time.monotonic() + 1
        while time.monotonic() < until_s:
            for start in range(0, len(stream), 7):
                raw.sendall(stream[start : start + 7])
                time.sleep(0.005)
            assert [app.take() for _ in range(3)] == ["0123456789"] * 3


def test_a_ping_in_two_pieces_is_no_message(served: Served, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MESSAGE_MS", 200)
    with served.websocket() as raw:
        ping = client_frame(PING, b"hello")
        raw.sendall(ping[:3])
        time.sleep(0.05)
        raw.sendall(ping[3:])
        assert raw.recv(100) == b"\x8a\x05hello"
        raw.settimeout(0.5)
        with pytest.raises(TimeoutError):
            raw.recv(1)
        raw.sendall(text("still here"))
        assert app.take() == "still here"


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_a_flood_of_control_frames_is_dropped(served: Served, app: App, opcode: int) -> None:
    with served.websocket() as raw:
        try:
            raw.sendall(client_frame(opcode) * (CONTROLS_BURST + 10_000))
        except ConnectionError:
            pass
        assert len(read_all(raw)) <= 2 * (CONTROLS_BURST + 2_000)
    assert app.take() is None
    served.inside_are(0)


def test_a_peer_that_pings_and_does_not_read_is_owed_one_pong(
    served: Served, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served.websocket(receive_bytes=4_096) as raw:
        raw.sendall(text("hello"))
        assert app.take() == "hello"
        protocol = app.protocol
        assert protocol is not None
        served.inside(lambda: protocol.write_messages(0x82, [bytes(6_000_000)]))
        waiting = served.inside(protocol.transport.get_write_buffer_size)
        assert waiting > 1_000_000
        for number in range(100):
            raw.sendall(client_frame(PING, str(number).encode()))
        raw.sendall(text("pinged"))
        assert app.take() == "pinged"
        assert served.inside(protocol.transport.get_write_buffer_size) <= waiting
        said = b""
        while not said.endswith(b"\x8a\x0299"):
            said += raw.recv(1_000_000)
        assert len(said) == 6_000_000 + 10 + 4
