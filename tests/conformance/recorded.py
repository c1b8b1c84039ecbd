"""Recorded sessions: their file format, and a player that plays the client's side against a real server.

A file is JSONL. The first line is a header: `name`, `proves` (rule ids of docs/protocol.md), `needs` (models that the
server must have) and `ids` (names for which every run draws fresh ids). Each further line is one of

    {"from": "client", "frame": {...}}            sent as it is, placeholders filled in
    {"from": "client", "raw": "..."}              a text message that need not be a frame
    {"from": "client", "http": {"method": "PATCH", "path": "/v1/sessions/$s", "body": {...}}, "status": 200,
     "answer": {...}}                              a call (docs/http.md) and its answer; body and answer may be absent
    {"from": "server", "frame": {...}}            the next frame has these fields (others are free)
    {"from": "server", "frames": [{...}, ...]}    the next frames are these, in any order
    {"from": "server", "answer": {...}}           deltas and part ends up to the next other frame; `text` is the whole
    {"from": "server", "delta": {...}}            one delta with these fields
    {"from": "server", "closed": 4400}            the connection ends with this close code
    {"fault": "cut"} {"fault": "connect"} {"fault": "kill_node"}

A call comes by no connection: whoever plays the server's side alone passes its line over, since the frames tell what
came of it. `"on": "b"` names the connection (default "a"; a name that is new connects first). `"amid_deltas": true`
lets deltas go by before the expected frame. A string "$name" stands for an id of the header, or for a value that is
bound where the server first says it and must be the same wherever it stands again (in a path, names stand as they are
between other characters); "$cursor:NAME" is the cursor {gen, seq, turn} that the client has of the session whose id is
$NAME; "$any" is anything.
"""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from turnwire_protocol.codec import Codec
from turnwire_protocol.grammar import History, Verifier
from turnwire_protocol.limits import SNAPSHOT_BYTES_MAX

FRAME_BYTES_MAX = 4 * SNAPSHOT_BYTES_MAX
NUMBERED = ("turn.", "session.updated", "session.deleted")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One file."""

    path: Path
    name: str
    proves: Sequence[str]
    needs: Sequence[str]
    ids: Sequence[str]
    lines: Sequence[dict[str, Any]]

    @property
    def kills(self) -> bool:
        """Whether its node does not survive it."""
        return any(line.get("fault") == "kill_node" for line in self.lines)


def read_recorded(path: Path) -> Recorded:
    header, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line)
    return Recorded(path, header["name"], header["proves"], header["needs"], header["ids"], lines)


class Mismatch(AssertionError):
    """What came is not what the file says."""


@dataclass
class Peer:
    """One connection of the player."""

    socket: ClientConnection
    codec: Codec
    verifier: Verifier
    held: list[dict[str, Any]] = field(default_factory=list)

    async def send(self, frame: dict[str, Any]) -> None:
        self.verifier.client_sent(frame)
        data = self.codec.encode(frame)
        await self.socket.send(data if self.codec.binary else data.decode())

    async def send_raw(self, text: str) -> None:
        data: str | bytes = text.encode() if self.codec.binary else text
        self.verifier.client_sent(raw=data)
        await self.socket.send(data)

    async def receive(self) -> dict[str, Any]:
        if self.held:
            return self.held.pop(0)
        frame = self.codec.decode_object(await self.socket.recv(), FRAME_BYTES_MAX)
        self.verifier.server_sent(frame)
        return frame

    def cut(self) -> None:
        """Drop the connection without a closing handshake."""
        self.socket.transport.abort()


class Player:
    """Plays one recorded session. `restart_node` kills the node and returns the URL of its successor."""

    def __init__(
        self, url: str, codec: Codec, draw_id: Callable[[], str], restart_node: Callable[[], Awaitable[str]]
    ) -> None:
        self._url = url
        self._codec = codec
        self._draw_id = draw_id
        self._restart_node = restart_node
        self._history = History()
        self._peers: dict[str, Peer] = {}
        self._bound: dict[str, Any] = {}
        self._cursors: dict[str, dict[str, Any]] = {}

    async def play(self, recorded: Recorded) -> None:
        """Raises Mismatch, or RuleBroken from the grammar verifier."""
        self._bound = {name: self._draw_id() for name in recorded.ids}
        try:
            for number, line in enumerate(recorded.lines, 2):
                try:
                    await self._line(line)
                except Exception as error:
                    error.add_note(f"{recorded.path.name}:{number}: {json.dumps(line, ensure_ascii=False)}")
                    raise
        finally:
            for peer in self._peers.values():
                await peer.socket.close()

    async def _line(self, line: dict[str, Any]) -> None:
        if "http" in line:
            await self._call(line)
            return
        name = line.get("on", "a")
        if line.get("fault") == "kill_node":
            self._url = await self._restart_node()
            self._peers.clear()
            return
        if line.get("fault") == "connect" or name not in self._peers:
            self._peers[name] = await self._connect()
        peer = self._peers[name]
        if line.get("fault") == "cut":
            peer.cut()
            del self._peers[name]
        elif line.get("from") == "client":
            if "raw" in line:
                await peer.send_raw(line["raw"])
            else:
                await peer.send(self._filled(line["frame"]))
        elif line.get("from") == "server":
            await self._expect(peer, line)

    async def _call(self, line: dict[str, Any]) -> None:
        wanted = line["http"]
        path = re.sub(r"\$(\w+)", lambda found: str(self._bound[found[1]]), wanted["path"])
        url = f"{self._url.replace('ws://', 'http://', 1).removesuffix('/v1/ws')}{path}"
        async with (
            aiohttp.ClientSession() as http,
            http.request(wanted["method"], url, json=self._filled(wanted.get("body"))) as response,
        ):
            if response.status != line["status"]:
                raise Mismatch(f"answered with {response.status} {await response.text()}")
            if "answer" in line:
                got = await response.json(content_type=None)
                if not self._matches(line["answer"], got):
                    raise Mismatch(f"got {got}, wanted {line['answer']} with {self._bound}")
                self._bind(line["answer"], got)

    async def _connect(self) -> Peer:
        protocols = [Subprotocol(self._codec.subprotocol)]
        socket = await connect(self._url, subprotocols=protocols, max_size=None, compression=None)
        return Peer(socket, self._codec, Verifier(self._history, codec=self._codec))

    async def _expect(self, peer: Peer, line: dict[str, Any]) -> None:
        if "closed" in line:
            await self._expect_closed(peer, line["closed"])
        elif "answer" in line:
            await self._expect_answer(peer, line["answer"])
        else:
            waiting = list(line.get("frames") or [line.get("frame") or {"type": "turn.delta", **line["delta"]}])
            while waiting:
                frame = await self._next(peer)
                found = next((wanted for wanted in waiting if self._matches(wanted, frame)), None)
                if found is not None:
                    waiting.remove(found)
                    self._bind(found, frame)
                elif not (line.get("amid_deltas") and frame["type"] == "turn.delta"):
                    raise Mismatch(f"got {frame}, wanted {waiting} with {self._bound}")

    async def _expect_closed(self, peer: Peer, code: int) -> None:
        try:
            while True:
                frame = await peer.receive()
                if frame["type"] != "turn.delta":
                    raise Mismatch(f"got {frame}, wanted the connection to close with {code}")
        except ConnectionClosed as closed:
            got = closed.rcvd.code if closed.rcvd else 1006
            peer.verifier.closed(got)
            if got != code:
                raise Mismatch(f"closed with {got}, wanted {code}") from closed

    async def _expect_answer(self, peer: Peer, wanted: dict[str, Any]) -> None:
        """All deltas up to the next other frame; `text` joins those that match the other fields."""
        fields = {name: value for name, value in wanted.items() if name != "text"}
        text = ""
        while True:
            frame = await self._next(peer)
            if frame["type"] != "turn.delta":
                peer.held.insert(0, frame)
                break
            if self._matches(fields, frame):
                text += frame["text"]
        if "text" in wanted:
            got = {"text": text}
            if not text or not self._matches({"text": wanted["text"]}, got):
                raise Mismatch(f"the answer is {text!r}, wanted {wanted} with {self._bound}")
            self._bind({"text": wanted["text"]}, got)

    async def _next(self, peer: Peer) -> dict[str, Any]:
        frame = await peer.receive()
        session = str(frame.get("session"))
        if frame["type"] == "session.opened":
            self._cursors[session] = {name: frame[name] for name in ("gen", "seq", "turn")}
        elif "seq" in frame and frame["type"].startswith(NUMBERED):
            self._cursors[session] = {
                "gen": self._cursors[session]["gen"],
                "seq": frame["seq"],
                "turn": frame.get("turn"),
            }
        return frame

    def _filled(self, value: Any) -> Any:
        """A client's frame with its placeholders filled in."""
        if isinstance(value, dict):
            return {name: self._filled(item) for name, item in cast("dict[str, Any]", value).items()}
        if isinstance(value, list):
            return [self._filled(item) for item in cast("list[Any]", value)]
        if isinstance(value, str) and value.startswith("$cursor:"):
            return self._cursors[self._bound[value.removeprefix("$cursor:")]]
        if isinstance(value, str) and value.startswith("$"):
            return self._bound[value[1:]]
        return value

    def _matches(self, wanted: Any, got: Any) -> bool:
        if isinstance(wanted, dict):
            fields = cast("dict[str, Any]", wanted)
            return isinstance(got, dict) and all(
                name in got and self._matches(value, cast("dict[str, Any]", got)[name])
                for name, value in fields.items()
            )
        if isinstance(wanted, list):
            return (
                isinstance(got, list)
                and len(cast("list[Any]", wanted)) == len(cast("list[Any]", got))
                and all(map(self._matches, cast("list[Any]", wanted), cast("list[Any]", got)))
            )
        if isinstance(wanted, str) and wanted.startswith("$"):
            return wanted == "$any" or wanted[1:] not in self._bound or self._bound[wanted[1:]] == got
        return type(wanted) is type(got) and wanted == got

    def _bind(self, wanted: Any, got: Any) -> None:
        if isinstance(wanted, dict):
            for name, value in cast("dict[str, Any]", wanted).items():
                self._bind(value, got[name])
        elif isinstance(wanted, list):
            for item, other in zip(cast("list[Any]", wanted), got, strict=True):
                self._bind(item, other)
        elif isinstance(wanted, str) and wanted.startswith("$") and wanted != "$any":
            self._bound.setdefault(wanted[1:], got)
