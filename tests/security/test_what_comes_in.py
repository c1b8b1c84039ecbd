"""Hostile input 13 to 22 of docs/security.md: frames and parsers of a real server, whose memory, threads, tasks and
loop are looked at from beside it.

The bad messages are those of tests/protocol/bad_frames.py, told apart by what they try.
"""

import asyncio
import json
import re
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.protocol.bad_frames import FAULTY, TABLE, Bad, pack
from tests.protocol.generated import create
from tests.support.by_hand import opened, told_to_close
from tests.support.observed_node import ObservedNode
from tests.support.peers import Json, Peer
from tests.support.provider_server import ProviderServer, Reply, chunk, in_order, sse
from tests.support.serving import client_frame
from tests.support.stopwatch import fastest_ms
from tests.support.tokens import SECRET, shared
from turnwire.transports import uvicorn_protocol as protocol_module
from turnwire.transports.uvicorn_protocol import FRAGMENTS_MAX
from turnwire_protocol import limits
from turnwire_protocol.codec import CODECS, JSON, MSGPACK, Codec

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT, BINARY, CONT = 1, 2, 0
GROWTH_MB_MAX = 64
STALL_MS_MAX = 50

NODE = {"TURNWIRE_AUTH": "jwt", "TURNWIRE_JWT_SECRET": SECRET, "TURNWIRE_DRAIN_MS": "0"}
CONFIG = """
[models]
demo_models = true
[models.service]
provider = "openai_chat"
model = "m"
base_url = "{base_url}"
"""

BROKEN_TEXT = [
    sse(chunk("whole, ")),
    b'data: {"choices":[{"index":0,"delta":{"content":"a\\ud800b"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"c\xff\xfed"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"\\udc00"},"finish_reason":null}]}\n\n',
    sse(chunk(finish_reason="stop")),
    sse("[DONE]"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ObservedNode]:
    folder = tmp_path_factory.mktemp("node")
    async with ProviderServer(in_order(Reply(BROKEN_TEXT))) as service:
        (folder / "turnwire.toml").write_text(CONFIG.format(base_url=service.base_url))
        config = ("--config", str(folder / "turnwire.toml"))
        async with ObservedNode.started(folder / "data", NODE, *config) as started:
            yield started


@asynccontextmanager
async def unharmed(node: ObservedNode) -> AsyncGenerator[None]:
    """What happens within costs the server less than 64 MB and 50 ms at a time, and it serves on."""
    began = (await node.report()).at_s
    node.forget_memory_peak()
    before_mb = node.memory_mb()
    yield
    peer = await Peer.of(node, "witness")
    assert (await peer.answer("ping"))["type"] == "pong"
    await peer.socket.close()
    assert node.memory_peak_mb() - before_mb < GROWTH_MB_MAX
    assert (await node.report()).worst_ms(began) < STALL_MS_MAX
    assert node.process.returncode is None


async def greeted(node: ObservedNode, codec: Codec) -> ClientConnection:
    peer = await connect(
        node.url, compression=None, max_size=None, subprotocols=[Subprotocol(codec.subprotocol)], ping_interval=None
    )
    await say(peer, codec, codec.encode({"type": "hello", "id": "h", "token": shared("mallory")}))
    assert (await heard(peer, codec))["type"] == "welcome"
    return peer


async def say(peer: ClientConnection, codec: Codec, message: bytes | str) -> None:
    await peer.send(message.decode("utf-8") if isinstance(message, bytes) and not codec.binary else message)


async def heard(peer: ClientConnection, codec: Codec) -> Json:
    return codec.decode_object(await asyncio.wait_for(peer.recv(), 20), bytes_max=1_000_000)


async def refusal_of(node: ObservedNode, bad: Bad, codec: Codec | None = None) -> tuple[Json, int | None]:
    """The error frame that answers a message, and the code that follows, or None where the connection goes on."""
    codec = codec or bad.codec
    message = bad.message if codec is bad.codec else pack(json.loads(bad.message))
    peer = await greeted(node, codec)
    await say(peer, codec, message)
    error = await heard(peer, codec)
    try:
        await say(peer, codec, codec.encode({"type": "ping", "id": "after"}))
        assert (await heard(peer, codec))["reply_to"] == "after"
        return error, None
    except ConnectionClosed as closed:
        assert closed.rcvd is not None, bad.name
        return error, closed.rcvd.code
    finally:
        await peer.close()


async def assert_refused(node: ObservedNode, bad: Bad, codec: Codec | None = None) -> None:
    error, close = await refusal_of(node, bad, codec)
    assert error["type"] == "error" and error["error"]["code"] == bad.code, bad.name
    assert re.search(bad.says, error["error"]["message"]), error
    assert (close, error.get("reply_to")) == (bad.close, bad.reply_to), bad.name


def rows(pattern: str) -> list[Bad]:
    found = [bad for bad in TABLE if re.search(pattern, bad.name)]
    assert len(found) >= 3, pattern
    return found


async def all_refused(node: ObservedNode, table: list[Bad]) -> None:
    async with unharmed(node):
        for bad in table:
            await assert_refused(node, bad)


# --- 13 to 15: before anything is parsed ---------------------------------------------------------------------------


async def test_13_a_deflate_bomb_is_refused_before_it_is_inflated(node: ObservedNode) -> None:
    """The extension is not agreed to, so a compressed frame is one with a reserved bit that means nothing."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeezer.compress(bytes(512 * 1_048_576)) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 1_000_000
    async with unharmed(node):
        for opcode in (TEXT, BINARY):
            offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
            handle = await asyncio.to_thread(opened, node.port, offer)
            with handle:
                assert handle.status == 101 and b"sec-websocket-extensions" not in handle.head.lower()
                frame = client_frame(opcode, bomb)
                await asyncio.to_thread(handle.raw.sendall, bytes((frame[0] | 0x40,)) + frame[1:])
                assert await asyncio.to_thread(told_to_close, handle.raw) == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_14_what_is_too_large_is_refused_by_its_head(node: ObservedNode, opcode: int) -> None:
    async with unharmed(node):
        for length in (2 * limits.COMMAND_BYTES_MAX + 1, 2**32, 2**63 - 1):
            with await asyncio.to_thread(opened, node.port) as handle:
                head = bytes((0x80 | opcode, 0x80 | 127)) + length.to_bytes(8, "big") + bytes(4)
                await asyncio.to_thread(handle.raw.sendall, head)  # and nothing behind it
                assert await asyncio.to_thread(told_to_close, handle.raw) == 1009
        with await asyncio.to_thread(opened, node.port) as handle:  # in pieces, each of which is small
            piece = client_frame(CONT, bytes(262_144), fin=False)
            whole = client_frame(opcode, b"", fin=False) + piece * 9
            await asyncio.to_thread(handle.raw.sendall, whole)
            assert await asyncio.to_thread(told_to_close, handle.raw) == 1009
    await all_refused(node, rows("too large"))


@pytest.mark.parametrize("piece", [b"", b"x"], ids=["empty", "of a byte"])
async def test_15_fragments_without_end_are_bounded_in_number(node: ObservedNode, piece: bytes) -> None:
    """Five million of them, as far as they are taken."""
    async with unharmed(node):
        for opcode in (TEXT, BINARY):
            with await asyncio.to_thread(opened, node.port) as handle:
                frames = client_frame(CONT, piece, fin=False) * 100_000

                def send(raw: Any = handle.raw, frames: bytes = frames, first: int = opcode) -> None:
                    raw.sendall(client_frame(first, piece, fin=False))
                    for _ in range(50):
                        raw.sendall(frames)

                with pytest.raises(OSError):
                    await asyncio.to_thread(send)
        with await asyncio.to_thread(opened, node.port) as handle:  # just as many as are one too many
            exactly = client_frame(TEXT, piece, fin=False) + client_frame(CONT, piece, fin=False) * FRAGMENTS_MAX
            await asyncio.to_thread(handle.raw.sendall, exactly)
            assert await asyncio.to_thread(told_to_close, handle.raw) == 1009


async def test_15_fragments_without_end_are_bounded_in_time() -> None:
    """The deadline of a minute is shown in a fraction of one by tests/transports/test_incoming_frames.py."""
    assert protocol_module.MESSAGE_MS <= 60_000
    assert FRAGMENTS_MAX <= 1_024


# --- 16 to 20: what cannot be read, or not be meant -----------------------------------------------------------------


async def test_16_nesting_without_end_is_a_clean_refusal(node: ObservedNode) -> None:
    await all_refused(node, rows(r"deep|in each other"))


async def test_17_numbers_that_not_everyone_could_hold_are_refused(node: ObservedNode) -> None:
    await all_refused(node, rows(r"NaN|[iI]nfinity|1e\d+|2\^\d+|digits|seq a|half a turn"))


async def test_18_lone_surrogates_are_refused_coming_in_and_repaired_coming_from_a_model(node: ObservedNode) -> None:
    table = [bad for bad in rows(r"surrogate") if not isinstance(bad.message, str) or bad.message.isascii()]
    await all_refused(node, table)
    async with unharmed(node):
        # As it is, one cannot even be written in UTF-8: the transport refuses such text (RFC 6455 section 8.1).
        with await asyncio.to_thread(opened, node.port) as handle:
            await asyncio.to_thread(handle.raw.sendall, client_frame(TEXT, b'{"t":"\xed\xa0\x80"}'))
            assert await asyncio.to_thread(told_to_close, handle.raw) == 1007
        peer = await Peer.of(node, "alice")
        await peer.ask("turn.create", **{**create(model="service"), "type": "turn.create"})
        frames = await peer.until("turn.done")
        text = "".join(frame["text"] for frame in frames if frame["type"] == "turn.delta")
        assert text.startswith("whole, a\ufffdbc\ufffd") and text.endswith("d\ufffd")
        assert frames[-1]["parts"][0]["crc32"] == zlib.crc32(text.encode())
        await peer.socket.close()


async def test_19_extension_types_odd_keys_and_giant_heads_of_msgpack_are_refused(node: ObservedNode) -> None:
    await all_refused(node, rows(r"^msgpack: (.*key|exten|time|binary|.*4 GiB|never used|cut in|text is not)"))
    version = tuple(map(int, msgpack.version[:3]))
    assert version >= (1, 2, 3)  # before it, an unpacker leaked what a hostile message made it allocate


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
async def test_20_missing_doubled_and_mistyped_fields_are_an_error_frame_each(node: ObservedNode, codec: Codec) -> None:
    async with unharmed(node):
        for bad in FAULTY:
            await assert_refused(node, bad, codec)
    await all_refused(node, [bad for bad in rows("key twice") if bad.codec is codec])


async def test_20_fields_that_nobody_knows_change_nothing(node: ObservedNode) -> None:
    peer = await Peer.of(node, "alice")
    answer = await peer.answer(
        "session.open", session="unknown", admin=True, user="root", owner="bob", **{"__proto__": {}}
    )
    assert (answer["type"], answer["gen"]) == ("session.opened", None)
    await peer.socket.close()


# --- 21, 22: how much, how fast -------------------------------------------------------------------------------------


async def test_21_a_flood_of_messages_makes_no_task_or_thread_for_each(node: ObservedNode) -> None:
    before, threads = await node.report(), node.threads()
    await node.tasks_are(before.tasks)
    async with unharmed(node):
        floods = [
            [{"type": "ping", "id": "p"}] * 5_000,
            [{"type": "session.open", "id": "o", "session": f"s{number}"} for number in range(5_000)],
            [{"type": "turn.cancel", "id": "x", "session": "s", "turn": f"t{number}"} for number in range(5_000)],
            [{"type": "nonsense", "id": "n"}] * 5_000,
        ]
        for flood in floods:
            peer = await greeted(node, JSON)

            async def send(peer: ClientConnection = peer, flood: list[Json] = flood) -> None:
                for frame in flood:
                    await peer.send(JSON.encode(frame).decode())

            with pytest.raises(ConnectionClosed) as closed:
                sending = asyncio.create_task(send())
                try:
                    while True:
                        await peer.recv()
                finally:
                    await asyncio.gather(sending, return_exceptions=True)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4529
    await node.tasks_are(before.tasks)  # and none is left of them
    after = await node.report()
    assert after.tasks_max <= before.tasks_max + 20
    assert node.threads() <= threads + 1 and after.threads_max <= before.threads_max + 1


async def test_22_keys_that_collide_are_refused_and_the_most_that_is_allowed_is_cheap(node: ObservedNode) -> None:
    # Whole numbers that leave the same rest collide in every table of Python's (its modulus is 2^61 - 1), and so do
    # floats; strings do not, without its secret seed.
    rest = 2**61 - 1
    table = [
        Bad("whole numbers", pack({rest * number: 0 for number in range(1, 8)}), "keys must be strings"),
        Bad("floats", pack({float(rest) * number: 0 for number in range(1, 60)}), "keys must be strings"),
        Bad("thousands", pack({float(rest) * number: 0 for number in range(1, 9_000)}), "keys, 64 are allowed"),
        *rows("65 keys|000 keys|a key|integer key"),
    ]
    await all_refused(node, table)
    # An object of the most keys, and the most of such objects that a frame may have.
    for count, cpu_ms_max in ((1, 10), (150, STALL_MS_MAX)):
        full = {"type": "ping", "id": "p", "x": [{f"key {key}": [] for key in range(64)} for _ in range(count)]}
        for codec in (JSON, MSGPACK):
            encoded = codec.encode(full)
            message = encoded if codec.binary else encoded.decode()
            assert fastest_ms(lambda message=message, codec=codec: codec.decode_command(message)) < cpu_ms_max
            async with unharmed(node):
                peer = await greeted(node, codec)
                await say(peer, codec, encoded)
                assert (await heard(peer, codec))["type"] == "pong"
                await peer.close()
